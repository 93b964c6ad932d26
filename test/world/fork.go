package world

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A copied is one INVITE of a forked call, to one box.
type copied struct {
	box    *box
	branch string
	status string // the final one
	to     string // its To header
	heard  []string
}

// fork fxo +33472001200 [ids] [apart 300ms]: a provider at the address of fxo
// sends one call to every box of the site, by one Call-ID, or by ids of their
// own; it hangs up 3 s after the last answer.
func (w *World) fork(args []string) ([]string, error) {
	gap, args := option(args, "apart")
	ids := slices.Contains(args, "ids")
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "ids" })
	if err := need(args, 2, "fork fxo +33472001200 [ids] [apart 300ms]"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("there is no %s", args[0])
	}
	apart := time.Duration(0)
	if gap != "" {
		var err error
		if apart, err = time.ParseDuration(gap); err != nil {
			return nil, err
		}
	}
	w.plugged++
	at := netip.AddrPortFrom(p.ip, uint16(20000+w.plugged))
	sock, err := w.air.Listen(at)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	boxes, err := w.named(p.at.name)
	if err != nil {
		return nil, err
	}
	callID := func(i int) string {
		if !ids {
			i = 0
		}
		return fmt.Sprintf("fork-%d-%d", w.plugged, i)
	}
	message := func(method string, i int, c *copied, to string) []byte {
		body, extra := "", ""
		if method == "INVITE" {
			body = fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %[1]s\r\ns=-\r\nc=IN IP4 %[1]s\r\nt=0 0\r\nm=audio 30000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n", at.Addr())
			extra = "Content-Type: application/sdp\r\n"
		}
		branch, seq := c.branch, 1
		if method == "BYE" || method == "ACK" && strings.HasPrefix(c.status, "200") {
			branch += method
		}
		if method == "BYE" {
			seq = 2
		}
		return []byte(fmt.Sprintf("%s sip:%s@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s\r\nFrom: <sip:+33612345678@%s>;tag=provider%d\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nContact: <sip:fork@%s>\r\nMax-Forwards: 70\r\n%sContent-Length: %d\r\n\r\n%s",
			method, args[1], c.box.ip, at, branch, at.Addr(), w.plugged, to, callID(i), seq, method, at, extra, len(body), body))
	}
	var mu sync.Mutex
	var all []*copied
	for i, b := range boxes {
		all = append(all, &copied{box: b, branch: fmt.Sprintf("z9hG4bKfork%d.%d", w.plugged, i)})
	}
	read := make(chan struct{})
	go func() { // ends when the socket closes
		defer close(read)
		buf := make([]byte, 65536)
		for {
			n, from, err := sock.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			text := string(buf[:n])
			status, ok := strings.CutPrefix(strings.SplitN(text, "\r\n", 2)[0], "SIP/2.0 ")
			if !ok || !strings.Contains(text, " INVITE\r\n") {
				continue
			}
			mu.Lock()
			for i, c := range all {
				if c.box.ip != from.Addr() {
					continue
				}
				if !slices.Contains(c.heard, status) && !strings.HasPrefix(status, "100") {
					c.heard = append(c.heard, status)
				}
				if status[0] > '1' {
					c.status = status
					for line := range strings.SplitSeq(text, "\r\n") {
						if to, ok := strings.CutPrefix(line, "To: "); ok {
							c.to = to
						}
					}
					_, _ = sock.WriteToUDPAddrPort(message("ACK", i, c, c.to), from)
				}
			}
			mu.Unlock()
		}
	}()
	for i, c := range all {
		if i > 0 {
			time.Sleep(apart)
		}
		mu.Lock()
		_, err := sock.WriteToUDPAddrPort(message("INVITE", i, c, "<sip:"+args[1]+"@"+p.at.name+">"), netip.AddrPortFrom(c.box.ip, sipPort))
		mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	_, dead := until(30*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range all {
			if c.status == "" {
				return fmt.Errorf("%s did not answer", c.box.name)
			}
		}
		return nil
	})
	time.Sleep(3 * time.Second)
	var out []string
	mu.Lock()
	for i, c := range all {
		if strings.HasPrefix(c.status, "200") {
			_, _ = sock.WriteToUDPAddrPort(message("BYE", i, c, c.to), netip.AddrPortFrom(c.box.ip, sipPort))
		}
		out = append(out, "a box: "+strings.Join(c.heard, ", "))
	}
	mu.Unlock()
	slices.Sort(out) // chance says which box it is
	if dead != nil {
		out = append(out, dead.Error())
	}
	time.Sleep(time.Second)
	sock.Close()
	<-read
	return out, nil
}

// emergency ana at A asks how an emergency call would go.
func (w *World) emergency(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "emergency ana at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	p, err := b.api.EmergencyTest(ctx, args[0])
	if err != nil {
		return nil, err
	}
	out := append([]string{}, p.Steps...)
	for _, x := range p.Wrong {
		out = append(out, "wrong: "+x)
	}
	return out, nil
}

// loosen fxo A-a takes the cable between a telephone and a box away.
func (w *World) loosen(args []string) ([]string, error) {
	if err := need(args, 2, "loosen fxo A-a"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	bs, err := w.named(args[1])
	if err != nil || p == nil {
		return nil, fmt.Errorf("there is no %s or no %s", args[0], args[1])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loose == nil {
		w.loose = map[[2]netip.Addr]bool{}
	}
	for _, b := range bs {
		w.loose[[2]netip.Addr{p.ip, b.ip}] = true
	}
	return nil, nil
}
