package labkit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Linphone is a running linphone-daemon (Debian's linphone-cli): liblinphone
// without a screen. It says a tone of its own in every call, and records what
// its loudspeaker would play.
type Linphone struct {
	*Process
	Account Account
	Hz      int // of the tone it says
	dir     string
	tone    string

	talk sync.Mutex // one command at a time: answers bear no number
	conn net.Conn

	mu     sync.Mutex // guards what follows
	events []LinphoneEvent
	news   chan struct{} // closed and renewed at each event
}

// A LinphoneEvent is a call that came into a state, by liblinphone's name
// without the word Call: OutgoingRinging, StreamsRunning, Released and so on.
type LinphoneEvent struct {
	Call  string // the daemon's number of the call
	State string
}

// Linphone starts linphone-daemon on the host, saying hz.
func (h *Host) Linphone(a Account, hz int) *Linphone {
	t := h.lab.T
	t.Helper()
	Need(t, "linphone-daemon")
	h.lab.mu.Lock()
	n := 0
	for _, p := range h.lab.procs {
		if p.Host == h && strings.HasPrefix(p.Name, "linphone") {
			n++
		}
	}
	h.lab.mu.Unlock()
	p := &Linphone{Account: a, Hz: hz, news: make(chan struct{})}
	p.dir = filepath.Dir(h.File(fmt.Sprintf("lin-%d/rc", n)))
	for _, dir := range []string{"heard", ".local/share/linphone"} { // without its database it stays dead, silently
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.tone = filepath.Join(h.lab.Dir, fmt.Sprintf("tone%d.wav", hz))
	if _, err := os.Stat(p.tone); err != nil {
		if err := Tone(8000, hz, 180).WriteWAV(p.tone); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"rc": p.config(h, n), ".asoundrc": p.ear()} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(p.dir, "s")
	p.Process = h.StartIn(p.dir, []string{"HOME=" + p.dir}, "linphone "+a.User, "linphone-daemon",
		"--config", filepath.Join(p.dir, "rc"), "--log", filepath.Join(p.dir, "log"),
		"--pipe", "../"+socket, "--disable-stats-events") // it puts /tmp/ before the name
	h.lab.Within(10*time.Second, "linphone-daemon listens to commands", func() (ok bool) {
		c, err := net.Dial("unix", socket)
		p.conn = c
		return err == nil
	})
	for _, c := range []string{"audio-codec-disable ALL", "audio-codec-enable PCMU/8000/1", "audio-codec-enable PCMA/8000/1"} {
		p.must(c)
	}
	go p.watch() // ends when linphone-daemon does
	return p
}

// config is a linphonerc: one account, no network tricks, no sounds of its own.
func (p *Linphone) config(h *Host, n int) string {
	a := p.Account
	transport := a.Transport
	if transport == "" {
		transport = "udp"
	}
	auth := a.AuthUser
	if auth == "" {
		auth = a.User
	}
	ports := map[string]int{"udp": 0, "tcp": 0, "tls": 0}
	ports[transport] = 7000 + 10*n
	server := fmt.Sprintf("<sip:%s;transport=%s", a.Server, transport)
	rtp := 40000 + 100*n
	return strings.Join([]string{
		"[sip]",
		fmt.Sprintf("sip_port=%d", ports["udp"]), fmt.Sprintf("sip_tcp_port=%d", ports["tcp"]), fmt.Sprintf("sip_tls_port=%d", ports["tls"]),
		"default_proxy=0", "use_ipv6=0", "ipv6_migration_done=1", "keepalive_period=0",
		"[net]", "mtu=1300",
		"[rtp]", fmt.Sprintf("audio_rtp_port=%d-%d", rtp, rtp+98),
		"[sound]", "remote_ring=", "local_ring=", "hold_music=", "echocancellation=0",
		"[misc]", "tone_indications=0", "real_early_media=0",
		"[video]", "display=0", "capture=0", "automatically_initiate=0", "automatically_accept=0",
		"[proxy_0]",
		"reg_proxy=" + server + ">", "reg_route=" + server + ";lr>",
		fmt.Sprintf("reg_identity=sip:%s@%s", a.User, a.Domain),
		fmt.Sprintf("reg_expires=%d", a.Expires), "reg_sendregister=1", "publish=0", "avpf=0",
		"[auth_info_0]",
		"username=" + a.User, "userid=" + auth, "passwd=" + a.Password, "domain=" + a.Domain,
	}, "\n") + "\n"
}

// ear is an ALSA configuration: a sound card that has no microphone and writes
// what it plays to a file, a new one each time it is opened.
func (p *Linphone) ear() string {
	return `pcm.ear { type file slave.pcm "null" file "` + filepath.Join(p.dir, "heard", "ear.wav") + `" format "wav" truncate 0 }
pcm.!default { type asym playback.pcm { type plug slave { pcm "ear" format S16_LE channels 1 rate 8000 } } }
`
}

// Command gives linphone-daemon one of its commands and returns the lines of
// its answer as fields.
func (p *Linphone) Command(command string) (map[string]string, error) {
	p.talk.Lock()
	defer p.talk.Unlock()
	p.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(p.conn, "%s\n", command); err != nil {
		return nil, fmt.Errorf("linphone %s: %s: %w", p.Account.User, command, err)
	}
	b := make([]byte, 1<<16) // an answer is one write
	n, err := p.conn.Read(b)
	if err != nil {
		return nil, fmt.Errorf("linphone %s: %s: %w", p.Account.User, command, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b[:n])) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			fields[k] = v
		}
	}
	if fields["Status"] != "Ok" {
		return fields, fmt.Errorf("linphone %s: %s: %s", p.Account.User, command, b[:n])
	}
	return fields, nil
}

func (p *Linphone) must(command string) map[string]string {
	t := p.Host.lab.T
	t.Helper()
	f, err := p.Command(command)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// watch asks for events, and lets the phone speak in each call whose streams
// run: liblinphone makes them anew whenever a call changes.
func (p *Linphone) watch() {
	for {
		f, err := p.Command("pop-event")
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			continue
		case err != nil:
			return
		}
		state, ok := strings.CutPrefix(f["Event"], "LinphoneCall")
		if !ok {
			time.Sleep(20 * time.Millisecond) // the daemon has no way to wake us
			continue
		}
		if state == "StreamsRunning" {
			p.Command("incall-player-start " + p.tone + " " + f["Id"])
		}
		p.mu.Lock()
		p.events = append(p.events, LinphoneEvent{f["Id"], state})
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
	}
}

// Dial calls a number and returns the call's name.
func (p *Linphone) Dial(number string) string {
	p.Host.lab.T.Helper()
	return p.must("call " + p.uri(number))["Id"]
}

func (p *Linphone) uri(number string) string { return "sip:" + number + "@" + p.Account.Domain }

// Accept answers a call.
func (p *Linphone) Accept(call string) { p.Host.lab.T.Helper(); p.must("answer " + call) }

// Hangup ends a call.
func (p *Linphone) Hangup(call string) { p.Host.lab.T.Helper(); p.must("terminate " + call) }

// Hold puts the other side of a call on hold.
func (p *Linphone) Hold(call string) { p.Host.lab.T.Helper(); p.must("call-pause " + call) }

// Resume takes it back.
func (p *Linphone) Resume(call string) { p.Host.lab.T.Helper(); p.must("call-resume " + call) }

// Transfer sends the other side of a call to a number (RFC 3515).
func (p *Linphone) Transfer(call, number string) {
	p.Host.lab.T.Helper()
	p.must("call-transfer " + call + " " + p.uri(number))
}

// Join connects the other sides of two calls (RFC 3891).
func (p *Linphone) Join(call, other string) {
	p.Host.lab.T.Helper()
	p.must("call-transfer " + call + " " + other)
}

// Mark is a place in the list of events.
func (p *Linphone) Mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.events)
}

// Await waits until a call, or any if call is "", comes into one of the states
// (separated by |) after a mark, and ends the test if it does not.
func (p *Linphone) Await(mark int, call, states string, within time.Duration) LinphoneEvent {
	t := p.Host.lab.T
	t.Helper()
	want := strings.Split(states, "|")
	timeout := time.After(within)
	for {
		p.mu.Lock()
		news, seen := p.news, p.events[min(mark, len(p.events)):]
		for _, e := range seen {
			if (call == "" || e.Call == call) && slices.Contains(want, e.State) {
				p.mu.Unlock()
				return e
			}
		}
		p.mu.Unlock()
		select {
		case <-news:
		case <-timeout:
			t.Fatalf("linphone %s: no %s of call %q within %v; it saw %v", p.Account.User, states, call, within, seen)
		}
	}
}

// LastHeard is what the newest of its streams played so far.
func (p *Linphone) LastHeard() Sound {
	t := p.Host.lab.T
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(p.dir, "heard", "*.wav*"))
	var last string
	var when time.Time
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && !st.ModTime().Before(when) {
			last, when = f, st.ModTime()
		}
	}
	if last == "" {
		return Sound{Rate: 8000}
	}
	s, err := ReadWAV(last)
	if err != nil {
		return Sound{Rate: 8000}
	}
	return s
}
