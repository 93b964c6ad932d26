package edge_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
)

// What INDEX.md expects of the edge, over UDP and over a stream. "accept" means
// that the handler gets it; a number that it is answered so; "drop" that nothing
// happens; "wait" that the stream waits for more octets and then closes.
// Where the two differ there is a reason.
var torture = []struct{ file, udp, tcp, why string }{
	{"wsinv", "accept", "accept", ""},
	{"intmeth", "accept", "accept", ""},
	{"esc01", "accept", "accept", ""},
	{"escnull", "accept", "accept", ""},
	{"esc02", "accept", "accept", ""},
	{"lwsdisp", "accept", "accept", ""},
	{"longreq", "accept", "accept", ""},
	{"dblreq", "accept", "accept accept close", "on a stream the second message is the next one; its body is one octet longer than it says"},
	{"semiuri", "accept", "accept", ""},
	{"transports", "accept", "accept", ""},
	{"mpart01", "accept", "accept", ""},
	{"unreason", "accept", "accept", ""},
	{"noreason", "accept", "accept", ""},
	{"badinv01", "400", "400", ""},
	{"clerr", "400", "wait", "RFC 4475 §3.1.2.2"},
	{"ncl", "400", "400 close", ""},
	{"scalar02", "400", "400", ""},
	{"scalarlg", "drop", "drop", ""},
	{"quotbal", "400", "400", ""},
	{"ltgtruri", "400", "400", ""},
	{"lwsruri", "400", "400", ""},
	{"lwsstart", "400", "400", ""},
	{"trws", "400", "400", ""},
	{"escruri", "400", "400", ""},
	{"baddate", "accept", "accept", "Date is not used; INDEX: 400 or ignore Date"},
	{"regbadct", "400", "400", ""},
	{"badaspec", "400", "400", ""},
	{"baddn", "400", "wait", "the archived form lacks the empty line"},
	{"corrected/baddn", "400", "400", ""},
	{"badvers", "505", "505", ""},
	{"mismatch01", "400", "400", ""},
	{"mismatch02", "400", "400", ""},
	{"bigcode", "drop", "drop close", ""},
	{"badbranch", "accept", "accept", ""},
	{"insuf", "400", "400", ""},
	{"unkscm", "416", "416", ""},
	{"novelsc", "416", "416", ""},
	{"unksm2", "accept", "accept", "the registrar refuses the contact"},
	{"bext01", "420", "420", ""},
	{"invut", "accept", "accept", "415 is the user's: message.Acceptable"},
	{"regaut01", "accept", "accept", "the registrar challenges"},
	{"multi01", "400", "400", ""},
	{"mcl01", "400", "400 close", ""},
	{"bcast", "accept", "accept", "matches no transaction and goes no further: transaction.TestBroadcastResponseGoesNowhere"},
	{"zeromf", "accept", "accept", "483 is for who forwards; we are the end of every request"},
	{"cparam01", "accept", "accept", ""},
	{"cparam02", "accept", "accept", ""},
	{"regescrt", "accept", "accept", ""},
	{"sdp01", "accept", "accept", "406 is the user's: message.Acceptable"},
	{"inv2543", "accept", "400 close", "no Content-Length on a stream"},
	{"unlisted-test", "drop", "drop", "refused, and no Via to answer to"},
}

var torture6 = []struct{ file, want string }{
	{"ipv6-good", "accept"}, {"ipv6-bad", "400"}, {"port-ambiguous", "accept"}, {"port-unambiguous", "accept"},
	{"via-received-param-with-delim", "accept"}, {"via-received-param-no-delim", "accept"}, {"ipv6-in-sdp", "accept"},
	{"mult-ip-in-header", "accept"}, {"mult-ip-in-sdp", "accept"}, {"ipv4-mapped-ipv6", "accept"},
	{"ipv6-bug-abnf-3-colons", "accept"}, {"ipv6-correct-abnf-2-colons", "accept"},
}

// recorder is a handler that keeps what it gets.
type recorder struct {
	mu    sync.Mutex
	msgs  []sip.Message
	count map[string]int // by sender
}

func (r *recorder) HandleRequest(req *sip.Request, f *edge.Flow, _ []byte) { r.add(req, f) }
func (r *recorder) HandleResponse(res *sip.Response, f *edge.Flow)         { r.add(res, f) }
func (r *recorder) add(m sip.Message, f *edge.Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs = append(r.msgs, m)
	if r.count == nil {
		r.count = map[string]int{}
	}
	r.count[f.Remote.String()]++
}

// from says how many messages of one sender came through.
func (r *recorder) from(a net.Addr) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[a.String()]
}
func (r *recorder) take() []sip.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.msgs
	r.msgs = nil
	return m
}

// world is one edge on a network in memory.
func world(t *testing.T, n *edgetest.Net, h edge.Handler, change ...func(*edge.Config)) *edge.Edge {
	t.Helper()
	cfg := edge.Config{Dial: n.Dialer("10.0.0.1")}
	for _, c := range change {
		c(&cfg)
	}
	e, err := edge.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.AddPacket(n.UDP("10.0.0.1:5060"))
	e.AddListener(n.TCP("10.0.0.1:5060"), site.TCP)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, h) }()
	t.Cleanup(func() { cancel(); <-over })
	return e
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTortureOverUDP(t *testing.T) {
	for _, c := range torture {
		t.Run(c.file, func(t *testing.T) { overUDP(t, read(t, "rfc4475/"+c.file+".dat"), c.udp) })
	}
	for _, c := range torture6 {
		t.Run(c.file, func(t *testing.T) { overUDP(t, read(t, "rfc5118/wire/"+c.file+".dat"), c.want) })
	}
}

func overUDP(t *testing.T, raw []byte, want string) {
	synctest.Test(t, func(t *testing.T) {
		n, r := edgetest.New(), &recorder{}
		world(t, n, r)
		peer := n.UDP("10.0.0.9:5060")
		defer peer.Close()
		var answers []string
		n.Tap = func(from, _ netip.AddrPort, b []byte) { // read after Wait
			if from.String() == "10.0.0.1:5060" {
				answers = append(answers, status(b))
			}
		}
		peer.WriteToUDPAddrPort(raw, netip.MustParseAddrPort("10.0.0.1:5060"))
		synctest.Wait()
		if got := outcome(len(r.take()), answers, false); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestTortureOverTCP sends each message whole, octet by octet, and cut in two at
// every octet: the segments make no difference.
func TestTortureOverTCP(t *testing.T) {
	for _, c := range torture {
		t.Run(c.file, func(t *testing.T) { overTCP(t, read(t, "rfc4475/"+c.file+".dat"), c.tcp) })
	}
	for _, c := range torture6 {
		t.Run(c.file, func(t *testing.T) { overTCP(t, read(t, "rfc5118/wire/"+c.file+".dat"), c.want) })
	}
}

func overTCP(t *testing.T, raw []byte, want string) {
	synctest.Test(t, func(t *testing.T) {
		n, r := edgetest.New(), &recorder{}
		world(t, n, r, func(c *edge.Config) {
			c.Limits = edge.Limits{Conns: 1e6, PerSource: 1e6, SourceBurst: 1e6, Total: 1e6, TotalBurst: 1e6}
		})
		type trial struct {
			how string
			c   *client
			got string
		}
		var trials []*trial
		try := func(how string, segments ...[]byte) {
			k := len(trials)
			x := &trial{how: how, c: dial(t, n, fmt.Sprintf("10.1.%d.%d", k/250, k%250+1))}
			trials = append(trials, x)
			for _, s := range segments {
				x.c.Write(s) // fails when the other side closed, which is checked below
			}
		}
		try("whole", raw)
		var single [][]byte
		for i := range raw {
			single = append(single, raw[i:i+1])
		}
		try("octet by octet", single...)
		for i := 1; i < len(raw); i++ {
			try(fmt.Sprintf("cut at %d", i), raw[:i], raw[i:])
		}
		for _, x := range trials {
			text, closed := x.c.all()
			var answers []string
			for _, part := range strings.Split(text, "SIP/2.0 ")[1:] {
				answers = append(answers, part[:3])
			}
			x.got = outcome(r.from(x.c.LocalAddr()), answers, closed)
		}
		time.Sleep(11 * time.Second) // the deadline of a whole message
		for _, x := range trials {
			if _, closed := x.c.all(); closed && x.got == "drop" {
				x.got = "wait"
			}
			x.c.Close()
			if x.got != want {
				t.Errorf("%s: got %q, want %q", x.how, x.got, want)
			}
		}
	})
}

func outcome(handled int, answers []string, closed bool) string {
	var out []string
	for range handled {
		out = append(out, "accept")
	}
	out = append(out, answers...)
	if len(out) == 0 {
		out = append(out, "drop")
	}
	if closed {
		out = append(out, "close")
	}
	return strings.Join(out, " ")
}

func status(b []byte) string {
	if len(b) > 12 && string(b[:8]) == "SIP/2.0 " {
		return string(b[8:11])
	}
	return "?" + string(b[:min(len(b), 20)])
}
