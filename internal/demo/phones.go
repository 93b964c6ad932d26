package demo

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// user creates a user and switches a telephone on for it.
func (s *story) user(ctx context.Context, at, who, number string, tone float64, register bool) error {
	b := s.f.box(at)
	u, err := send[api.User](ctx, b, "POST", "/users", api.NewUser{Number: number, Name: strings.ToUpper(who[:1]) + who[1:]})
	if err != nil {
		return err
	}
	s.users[who] = u
	if !register {
		return nil
	}
	return s.telephone(ctx, at, who, u.Devices[0].Password, tone)
}

func (s *story) telephone(ctx context.Context, at, who, password string, tone float64) error {
	u := s.users[who]
	servers := []netip.AddrPort{s.f.box(at).server()}
	if u.Site == "0001" { // both boxes of the pair; the one named first is preferred
		other := "A-b"
		if at == "A-b" {
			other = "A-a"
		}
		servers = append(servers, s.f.box(other).server())
	}
	ip := s.f.box(at).inside.As4()
	ip[3] = byte(100 + len(s.phones))
	p, err := phonetest.New(phonetest.Config{Name: u.Name, Servers: servers, Domain: "shops.example", User: u.Number, Password: password,
		Local: netip.AddrFrom4(ip), Transport: site.UDP, Tone: tone})
	if err != nil {
		return fmt.Errorf("telephone of %s: %w", who, err)
	}
	if old := s.phones[who]; old != nil {
		old.Close()
	}
	s.phones[who] = p
	if err := within(ctx, 8*time.Second, p.Register); err != nil {
		return fmt.Errorf("register %s: %w", who, err)
	}
	return nil
}

// talk makes a call, listens at both ends, and hangs up. It returns how long the
// set-up took.
func (s *story) talk(ctx context.Context, from, dialled, to string, callerTone, calledTone float64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	caller, called := s.phones[from], s.phones[to]
	begun := time.Now()
	c, err := caller.DialStart(ctx, dialled)
	if err != nil {
		return 0, err
	}
	defer func() {
		hctx, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer done()
		_ = c.Hangup(hctx)
	}()
	var in *phonetest.Call
	select {
	case in = <-called.Incoming():
	case <-c.Done():
		return 0, fmt.Errorf("%s called %s: ended with %d", from, dialled, c.Cause().Status)
	case <-ctx.Done():
		return 0, fmt.Errorf("%s called %s: it never rang", from, dialled)
	}
	if err := in.Ring(); err != nil {
		return 0, err
	}
	if err := c.WaitRinging(ctx); err != nil {
		return 0, fmt.Errorf("%s hears no ringing: %w", from, err)
	}
	setup := time.Since(begun)
	if err := in.Answer(ctx); err != nil {
		return 0, fmt.Errorf("%s answers: %w", to, err)
	}
	if err := c.WaitAnswered(ctx); err != nil {
		return 0, err
	}
	err = errAll(func() error { return c.Hears(ctx, calledTone) }, func() error { return in.Hears(ctx, callerTone) })
	if err != nil {
		return 0, fmt.Errorf("speech between %s and %s: %w", from, to, err)
	}
	if err := c.Hangup(ctx); err != nil {
		return 0, fmt.Errorf("hang up: %w", err)
	}
	select {
	case <-in.Done():
	case <-ctx.Done():
		return 0, fmt.Errorf("%s was not told that the call is over", to)
	}
	return setup, nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms to ringing", d.Milliseconds()) }

// again calls somebody whose site is suspect by now, and hangs up at the greeting.
func (s *story) again(ctx context.Context, from, dialled string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begun := time.Now()
	c, err := s.phones[from].Dial(ctx, dialled)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begun)
	if err := c.Hangup(ctx); err != nil {
		return waited, err
	}
	if waited > 1500*time.Millisecond {
		return waited, fmt.Errorf("it took %v, at most 1 s to the voicemail branch was promised", waited)
	}
	return waited, nil
}

// leave calls somebody who cannot be reached and says something after the tone.
func (s *story) leave(ctx context.Context, from, dialled string, tone float64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	begun := time.Now()
	c, err := s.phones[from].Dial(ctx, dialled)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begun)
	err = c.HearsSilence(ctx, 400*time.Millisecond) // greeting and tone are over
	if err == nil {
		select {
		case <-time.After(2500 * time.Millisecond): // the phone's tone is the message
		case <-ctx.Done():
		}
	}
	if e := c.Hangup(ctx); err == nil {
		err = e
	}
	if err == nil && waited > 4*time.Second {
		err = fmt.Errorf("voicemail answered after %v", waited)
	}
	return waited, err
}

// loudest is which of the demo's tones makes up most of a WAV file.
func loudest(wav []byte) float64 {
	clip, err := media.ParseClip(wav)
	if err != nil {
		return 0
	}
	pcm, err := media.ReadAll(clip.Source(), 10*time.Second)
	if err != nil || len(pcm) < 8000 {
		return 0
	}
	best, most := 0.0, 0.0
	for _, hz := range []float64{440, 520, 620, 820, 1000, 1400} {
		if g := media.Goertzel(pcm, hz); g > most {
			best, most = hz, g
		}
	}
	return best
}
