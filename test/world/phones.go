package world

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// patience is how long a person waits for something to happen on a telephone.
const patience = 90 * time.Second

// pickUp is how long a telephone rings before somebody who is there answers.
const pickUp = 2 * time.Second

// A phone is a person with a telephone at a site.
type phone struct {
	who  string
	at   *place
	user api.User
	ip   netip.Addr
	tone float64
	tel  *phonetest.Phone
	call *phonetest.Call // the one this person made
	met  *phonetest.Call // the last one answered whose caller is known

	lamps []*lamp

	mu   sync.Mutex
	away bool            // nobody answers
	in   *phonetest.Call // the one this person answered
	stop chan struct{}
	gone chan struct{}
}

// A reply is one SIP response that arrived at a telephone.
type reply struct{ callID, status string }

// listen is the network's tap: it notes the answers to INVITEs.
func (w *World) listen(_, to netip.AddrPort, b []byte) {
	if !bytes.HasPrefix(b, []byte("SIP/2.0 ")) {
		return
	}
	head, _, _ := strings.Cut(string(b), "\r\n\r\n")
	status, rest, _ := strings.Cut(head, "\r\n")
	r := reply{status: strings.TrimPrefix(status, "SIP/2.0 ")}
	invite := false
	name := "" // whom the caller is told that he is connected with
	for line := range strings.SplitSeq(rest, "\r\n") {
		header, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(header) {
		case "p-asserted-identity":
			name, _, _ = strings.Cut(strings.TrimPrefix(value, `"`), `"`)
		case "call-id", "i":
			r.callID = value
		case "cseq":
			invite = strings.HasSuffix(value, "INVITE")
		}
	}
	if !invite {
		return
	}
	if name != "" {
		r.status += " [" + name + "]"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hosts[to.Addr()] == "" {
		w.heard[to] = append(w.heard[to], r)
	}
}

// plug gives a person a telephone that knows the boxes of the site.
func (w *World) plug(who string, at *place, u api.User) (*phone, error) {
	old := w.phones[who]
	p := &phone{who: who, at: at, user: u, stop: make(chan struct{}), gone: make(chan struct{})}
	if old != nil {
		p.ip, p.tone, p.away = old.ip, old.tone, old.away
		if old.at != at { // another network gives it another address
			p.ip = netip.AddrFrom4([4]byte{10, at.n, 0, byte(200 + w.plugged%50)})
		}
		old.off()
	} else {
		p.ip = netip.AddrFrom4([4]byte{10, at.n, 0, byte(100 + len(w.phones))})
		p.tone = 400 + 130*float64(len(w.phones))
	}
	var servers []netip.AddrPort
	bs, _ := w.named(at.name)
	for _, b := range bs {
		servers = append(servers, netip.AddrPortFrom(b.ip, sipPort))
	}
	w.plugged++
	var err error
	p.tel, err = phonetest.New(phonetest.Config{Name: u.Name, Servers: servers, Domain: "shops.example", User: u.Number, Password: u.Devices[0].Password,
		Local: p.ip, Tone: p.tone, Rand: w.rand(fmt.Sprint("phone ", who, w.plugged)),
		Listen: func(at netip.AddrPort) (edge.PacketConn, error) { return w.air.Listen(at) }})
	if err != nil {
		return nil, err
	}
	w.phones[who] = p
	go p.live() // ends with off
	return p, nil
}

func (p *phone) off() {
	close(p.stop)
	p.tel.Close()
	<-p.gone
}

// live lets the telephone ring, and its owner answer.
func (p *phone) live() {
	defer close(p.gone)
	for {
		select {
		case <-p.stop:
			return
		case c := <-p.tel.Incoming():
			if err := c.Ring(); err != nil {
				continue
			}
			p.mu.Lock()
			away := p.away
			p.mu.Unlock()
			if away {
				continue
			}
			t := time.NewTimer(pickUp)
			select {
			case <-p.stop:
				return
			case <-c.Done():
				t.Stop()
				continue
			case <-t.C:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := c.Answer(ctx); err == nil {
				p.mu.Lock()
				p.in = c
				p.mu.Unlock()
			}
			cancel()
		}
	}
}

// answered is the call this person is in, having been called.
func (p *phone) answered() *phonetest.Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in != nil {
		select {
		case <-p.in.Done():
			p.in = nil
		default:
		}
	}
	return p.in
}

// number is what this person dials for somebody, or for digits.
func (w *World) number(p *phone, whom string) string {
	q := w.phones[whom]
	switch {
	case q == nil:
		return whom
	case q.at == p.at:
		return q.user.Extension
	}
	return "8" + q.user.Number
}

// dial makes a call and tells what the caller's telephone was told.
func (w *World) dial(from, whom string) ([]string, error) {
	p := w.phones[from]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", from)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.tel.DialStart(ctx, w.number(p, whom))
	if err != nil {
		return nil, err
	}
	dead := c.WaitAnswered(ctx)
	synctest.Wait()
	var out []string
	w.mu.Lock()
	for _, r := range w.heard[p.tel.Addr()] {
		line := from + ": " + r.status
		if r.callID == c.ID() && !strings.HasPrefix(r.status, "100 ") && !strings.HasPrefix(r.status, "401 ") && !strings.HasPrefix(r.status, "407 ") && !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	w.mu.Unlock()
	if dead != nil {
		if c.Cause().Status == 0 {
			out = append(out, from+": "+dead.Error())
		}
		return out, nil
	}
	p.call = c
	with := "a recorded voice"
	for _, q := range w.phones {
		if in := q.answered(); in != nil && in != q.met {
			q.met = in
			if err := hear(ctx, c, q.tone, in, p.tone); err != nil {
				return out, fmt.Errorf("%s and %s: %w", from, q.who, err)
			}
			with = q.who + ", both hear each other"
		}
	}
	out[len(out)-1] += " (" + with + ")"
	return out, nil
}

// hear checks speech in both directions.
func hear(ctx context.Context, a *phonetest.Call, toneAtA float64, b *phonetest.Call, toneAtB float64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	other := make(chan error, 1)
	go func() { other <- b.Hears(ctx, toneAtB) }()
	err := a.Hears(ctx, toneAtA)
	if e := <-other; err == nil {
		err = e
	}
	return err
}

// say speaks for d once the other end is quiet: after the greeting and the tone.
func (w *World) say(d time.Duration) error {
	var talking []*phone
	for _, p := range w.phones {
		if p.call != nil {
			talking = append(talking, p)
		}
	}
	if len(talking) != 1 {
		return fmt.Errorf("%d people are in a call they made, so it is not clear who speaks", len(talking))
	}
	c := talking[0].call
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	talking[0].tel.Mute()
	if err := c.HearsSilence(ctx, time.Second); err != nil {
		return err
	}
	talking[0].tel.Play(talking[0].tone)
	time.Sleep(d)
	return nil
}

func (w *World) hangup(who string) error {
	p := w.phones[who]
	if p == nil || p.current() == nil {
		return fmt.Errorf("%s is in no call", who)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	err := p.current().Hangup(ctx)
	p.call = nil
	return err
}

// sounds plays a message and tells whose voice it is.
func (w *World) sounds(ctx context.Context, b *box, user string, id site.RecordID) (string, error) {
	r, err := b.api.Audio(ctx, user, id)
	if err != nil {
		return "", err
	}
	defer r.Close()
	wav, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	clip, err := media.ParseClip(wav)
	if err != nil {
		return "", err
	}
	pcm, err := media.ReadAll(clip.Source(), time.Minute)
	if err != nil {
		return "", err
	}
	voice, most := "nobody's voice", 0.0
	for _, p := range w.phones {
		if g := media.Goertzel(pcm, p.tone); g > most {
			voice, most = p.who+"'s voice", g
		}
	}
	return voice, nil
}

// keys presses keys in the call p made, and tells who took it then.
func (w *World) keys(p *phone, keys string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.call.Press(ctx, keys); err != nil {
		return nil, err
	}
	for range 40 {
		for _, q := range w.phones {
			if in := q.answered(); in != nil && in != q.met {
				q.met = in
				if err := hear(ctx, p.call, q.tone, in, p.tone); err != nil {
					return nil, fmt.Errorf("%s and %s: %w", p.who, q.who, err)
				}
				return []string{fmt.Sprintf("%s: talks with %s, both hear each other", p.who, q.who)}, nil
			}
		}
		select {
		case <-p.call.Done():
			p.call = nil
			return []string{p.who + ": the call is over"}, nil
		case <-time.After(time.Second):
		}
	}
	return []string{p.who + ": is not with anybody"}, nil
}
