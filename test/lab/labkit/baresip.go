package labkit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Account is what a telephone is told: the number, where its server is, and
// the password.
type Account struct {
	User, Domain string
	AuthUser     string // default User
	Password     string
	Server       string // host or host:port, default Domain
	Transport    string // udp or tcp, default udp
	Expires      int    // seconds; 0 does not register
	MWI          bool   // subscribe to the lamp (RFC 3842)
	Answer       bool   // answer every call at once
}

// A Baresip is a running baresip 1.0 (Debian), a telephone nobody here wrote.
// It says a tone of its own all the time and records what it hears.
type Baresip struct {
	*Process
	Account Account
	Hz      int // of the tone it says
	dir     string
	conn    net.Conn

	mu      sync.Mutex // guards what follows
	events  []Event
	news    chan struct{} // closed and renewed at each event
	answers map[string]chan answer
	token   int
}

// An Event is what baresip reports: REGISTER_OK, CALL_INCOMING,
// CALL_ESTABLISHED, CALL_CLOSED and so on.
type Event struct {
	At        time.Time `json:"-"`
	Class     string    `json:"class"`
	Type      string    `json:"type"`
	Direction string    `json:"direction"`
	Peer      string    `json:"peeruri"`
	ID        string    `json:"id"`
	Param     string    `json:"param"`
}

type answer struct {
	OK    bool   `json:"ok"`
	Data  string `json:"data"`
	Token string `json:"token"`
}

// Telephone starts baresip on the host, saying hz. The port it listens on is
// 10 apart from the next one's: it takes port and port+1.
func (h *Host) Telephone(a Account, hz int) *Baresip {
	t := h.lab.T
	t.Helper()
	Need(t, "baresip")
	h.lab.mu.Lock()
	n := 0
	for _, p := range h.lab.procs {
		if p.Host == h && strings.HasPrefix(p.Name, "baresip") {
			n++
		}
	}
	h.lab.mu.Unlock()
	port := 6000 + 10*n
	b := &Baresip{Account: a, Hz: hz, news: make(chan struct{}), answers: map[string]chan answer{}}
	b.dir = filepath.Dir(h.File(fmt.Sprintf("baresip-%s-%d/config", a.User, n)))
	if err := os.MkdirAll(filepath.Join(b.dir, "heard"), 0o755); err != nil {
		t.Fatal(err)
	}
	tone := filepath.Join(h.lab.Dir, fmt.Sprintf("tone%d.wav", hz))
	if _, err := os.Stat(tone); err != nil {
		if err := Tone(8000, hz, 180).WriteWAV(tone); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"config":          b.config(h, port, tone),
		"accounts":        "\n",
		"contacts":        "\n",
		"current_contact": "\n",
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.Process = h.StartIn(b.dir, nil, fmt.Sprintf("baresip %s", a.User), "baresip", "-f", b.dir, "-s")
	if _, err := b.Says("baresip is ready", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	conn, err := h.Dial("tcp", fmt.Sprintf("%s:%d", h.Addr, port+5))
	if err != nil {
		t.Fatalf("control baresip %s: %v", a.User, err)
	}
	b.conn = conn
	go b.read(bufio.NewReader(conn)) // ends when baresip does
	// The account comes now and not by its file: we then see all events, and
	// baresip's mwi module, which subscribes without end if the registration
	// was accepted within its first millisecond, has that behind it.
	b.must("uanew", a.line(h))
	b.must("uafind", "sip:"+a.User+"@"+a.Domain)
	return b
}

func (b *Baresip) config(h *Host, port int, tone string) string {
	return strings.Join([]string{
		"poll_method epoll",
		fmt.Sprintf("sip_listen %s:%d", h.Addr, port),
		"call_local_timeout 120",
		"call_max_calls 8",
		"audio_player aubridge,nil" + strconv.Itoa(port),
		"audio_source aufile," + tone,
		"audio_alert aubridge,alert" + strconv.Itoa(port),
		"ausrc_srate 8000", "auplay_srate 8000", "ausrc_channels 1", "auplay_channels 1",
		"rtp_ports " + fmt.Sprintf("%d-%d", 20000+10*port-60000, 20000+10*port-60000+98),
		"rtcp_mux no",
		"jitter_buffer_delay 2-6",
		"module_path /usr/lib/baresip/modules",
		"module g711.so",
		"module aubridge.so",
		"module aufile.so",
		"module sndfile.so",
		"module_tmp uuid.so",
		"module_tmp account.so",
		"module_app menu.so",
		"module_app mwi.so",
		"module_app ctrl_tcp.so",
		fmt.Sprintf("ctrl_tcp_listen %s:%d", h.Addr, port+5),
		"snd_path " + filepath.Join(b.dir, "heard"),
		"ring_aufile none", "callwaiting_aufile none", "ringback_aufile none",
		"notfound_aufile none", "busy_aufile none", "error_aufile none", "message_aufile none",
	}, "\n") + "\n"
}

func (a Account) line(h *Host) string {
	transport := a.Transport
	if transport == "" {
		transport = "udp"
	}
	auth := a.AuthUser
	if auth == "" {
		auth = a.User
	}
	password := a.Password
	if password == "" {
		password = "none" // baresip asks the keyboard for an empty one
	}
	s := fmt.Sprintf("<sip:%s@%s;transport=%s>;auth_user=%s;auth_pass=%s;regint=%d;audio_codecs=pcmu,pcma;ptime=20", a.User, a.Domain, transport, auth, password, a.Expires)
	if a.Server != "" {
		s += fmt.Sprintf(";outbound=\"sip:%s;transport=%s\"", a.Server, transport)
	}
	if a.MWI {
		s += ";mwi=yes"
	} else {
		s += ";mwi=no"
	}
	if a.Answer {
		s += ";answermode=auto"
	}
	return s
}

// read takes netstrings: length, colon, JSON, comma.
func (b *Baresip) read(r *bufio.Reader) {
	for {
		size, err := r.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(size, ":"))
		if err != nil || n < 0 || n > 1<<20 {
			return
		}
		body := make([]byte, n+1)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		var msg struct {
			Response bool `json:"response"`
			answer
			Event
		}
		if json.Unmarshal(body[:n], &msg) != nil {
			continue
		}
		b.mu.Lock()
		if msg.Response {
			if c := b.answers[msg.Token]; c != nil {
				c <- msg.answer
				delete(b.answers, msg.Token)
			}
		} else {
			msg.Event.At = time.Now()
			b.events = append(b.events, msg.Event)
			close(b.news)
			b.news = make(chan struct{})
		}
		b.mu.Unlock()
	}
}

// Command gives baresip one of its commands and returns what it answered.
func (b *Baresip) Command(command, params string) (string, error) {
	b.mu.Lock()
	b.token++
	token := strconv.Itoa(b.token)
	c := make(chan answer, 1)
	b.answers[token] = c
	b.mu.Unlock()
	body, err := json.Marshal(map[string]string{"command": command, "params": params, "token": token})
	if err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(b.conn, "%d:%s,", len(body), body); err != nil {
		return "", fmt.Errorf("baresip %s: %s: %w", b.Account.User, command, err)
	}
	select {
	case a := <-c:
		if !a.OK {
			return a.Data, fmt.Errorf("baresip %s: %s %s: %s", b.Account.User, command, params, a.Data)
		}
		return a.Data, nil
	case <-time.After(5 * time.Second):
		return "", fmt.Errorf("baresip %s does not answer %s", b.Account.User, command)
	}
}

func (b *Baresip) must(command, params string) string {
	t := b.Host.lab.T
	t.Helper()
	out, err := b.Command(command, params)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Dial calls a number or URI.
func (b *Baresip) Dial(to string) { b.Host.lab.T.Helper(); b.must("dial", to) }

// Accept answers the call that rings.
func (b *Baresip) Accept() { b.Host.lab.T.Helper(); b.must("accept", "") }

// Hangup ends the current call, or refuses the one that rings.
func (b *Baresip) Hangup() { b.Host.lab.T.Helper(); b.must("hangup", "") }

// Hold puts the other side on hold.
func (b *Baresip) Hold() { b.Host.lab.T.Helper(); b.must("hold", "") }

// Resume takes it back.
func (b *Baresip) Resume() { b.Host.lab.T.Helper(); b.must("resume", "") }

// Press sends keys as telephone events (RFC 4733), one after the other.
func (b *Baresip) Press(keys string) {
	b.Host.lab.T.Helper()
	for _, k := range keys {
		b.must("sndcode", string(k))
		time.Sleep(250 * time.Millisecond) // a person's fingers; the length of a key is part of the test
	}
}

// Mark is a place in the list of events.
func (b *Baresip) Mark() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.events)
}

// Await waits for an event of one of the types (separated by |) after a mark,
// and ends the test if it does not come.
func (b *Baresip) Await(mark int, types string, within time.Duration) Event {
	t := b.Host.lab.T
	t.Helper()
	e, ok := b.Await2(mark, types, within)
	if !ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		t.Fatalf("telephone %s: no %s within %v; it saw %v", b.Account.User, types, within, b.events[min(mark, len(b.events)):])
	}
	return e
}

// Await2 is Await that reports instead.
func (b *Baresip) Await2(mark int, types string, within time.Duration) (Event, bool) {
	want := strings.Split(types, "|")
	timeout := time.After(within)
	for {
		b.mu.Lock()
		news := b.news
		for _, e := range b.events[min(mark, len(b.events)):] {
			if slices.Contains(want, e.Type) {
				b.mu.Unlock()
				return e, true
			}
		}
		b.mu.Unlock()
		select {
		case <-news:
		case <-timeout:
			return Event{}, false
		}
	}
}

// Heard is the sound of the telephone's calls, oldest first, as its ear got
// it. The last one may still be growing.
func (b *Baresip) Heard() []Sound {
	t := b.Host.lab.T
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(b.dir, "heard", "*dec.wav"))
	slices.Sort(files)
	var out []Sound
	for _, f := range files {
		s, err := ReadWAV(f)
		if err != nil {
			t.Logf("what %s heard: %v", b.Account.User, err)
			continue
		}
		out = append(out, s)
	}
	return out
}

// LastHeard is the newest of Heard; empty if there is none.
func (b *Baresip) LastHeard() Sound {
	b.Host.lab.T.Helper()
	h := b.Heard()
	if len(h) == 0 {
		return Sound{Rate: 8000}
	}
	return h[len(h)-1]
}

// AwaitParam waits for an event after a mark whose parameter holds a text.
func (b *Baresip) AwaitParam(mark int, text string, within time.Duration) (Event, bool) {
	timeout := time.After(within)
	for {
		b.mu.Lock()
		news := b.news
		for _, e := range b.events[min(mark, len(b.events)):] {
			if strings.Contains(e.Param, text) {
				b.mu.Unlock()
				return e, true
			}
		}
		b.mu.Unlock()
		select {
		case <-news:
		case <-timeout:
			return Event{}, false
		}
	}
}
