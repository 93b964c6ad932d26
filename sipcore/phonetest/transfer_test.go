package phonetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// sent is the next call that p makes for a REFER.
func sent(t *testing.T, p *Phone) *Call {
	t.Helper()
	select {
	case c := <-p.Sent():
		return c
	case <-time.After(5 * time.Second):
		t.Fatal("the phone does not follow the REFER")
		return nil
	}
}

// answers answers the next call to p and returns it.
func answers(t *testing.T, ctx context.Context, p *Phone) *Call {
	t.Helper()
	c := call(t, p)
	ok(t, c.Ring())
	ok(t, c.Answer(ctx))
	return c
}

// over waits for the end of a call.
func over(t *testing.T, ctx context.Context, c *Call) {
	t.Helper()
	select {
	case <-c.Done():
	case <-ctx.Done():
		t.Fatal("the call does not end")
	}
}

type transferred struct {
	status int
	err    error
}

func goTransfer(f func() (int, error)) <-chan transferred {
	ch := make(chan transferred, 1)
	go func() { s, err := f(); ch <- transferred{s, err} }() // ends with the test's context
	return ch
}

func (x transferred) is(t *testing.T, want int) {
	t.Helper()
	if x.err != nil || x.status != want {
		t.Errorf("transfer: %d, %v; want %d", x.status, x.err, want)
	}
}

func TestBlindTransfer(t *testing.T) {
	t.Parallel()
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			_, bob, out, in := pair(t, tr)
			cleo := phone(t, Config{User: "203", Tone: 700, Transport: tr})
			ctx := within(t, 10*time.Second)
			done := goTransfer(func() (int, error) { return out.Refer(ctx, cleo.URI()) })
			got := answers(t, ctx, cleo)
			(<-done).is(t, 200)
			if r := out.Reports(); len(r) != 3 || r[0] != 100 || r[1] != 180 || r[2] != 200 {
				t.Errorf("reported %v", r)
			}
			if by := message.Get(got.Request(), "Referred-By"); by == "" {
				t.Error("the target is not told who transferred")
			}
			ok(t, out.Hangup(ctx))
			over(t, ctx, in)
			ok(t, sent(t, bob).Hears(ctx, 700))
			ok(t, got.Hears(ctx, 1000))
		})
	}
}

func TestBlindTransferHungUpAtOnce(t *testing.T) {
	t.Parallel()
	_, bob, out, _ := pair(t, site.UDP)
	cleo := phone(t, Config{User: "203"})
	ctx := within(t, 10*time.Second)
	done := goTransfer(func() (int, error) { return out.Refer(ctx, cleo.URI()) })
	got := call(t, cleo)
	ok(t, out.Hangup(ctx)) // the reports outlive the call (RFC 5057)
	ok(t, got.Reject(486))
	(<-done).is(t, 486)
	if e := sent(t, bob); e.WaitAnswered(ctx) == nil {
		t.Error("answered all the same")
	}
}

func TestTransferRefused(t *testing.T) {
	t.Parallel()
	_, _, out, _ := pair(t, site.UDP)
	ctx := within(t, 5*time.Second)
	var r *Refusal
	if _, err := out.ReferTo(ctx, "<sip:203@127.0.0.1:1?Replaces=nothing>"); !errors.As(err, &r) || r.Status != 400 {
		t.Errorf("a broken Replaces: %v", err)
	}
}

func TestAttendedTransfer(t *testing.T) {
	t.Parallel()
	ana, bob, out, in := pair(t, site.UDP)
	cleo := phone(t, Config{User: "203", Tone: 700})
	ctx := within(t, 10*time.Second)
	ok(t, out.Hold(ctx))
	other, err := ana.DialStart(ctx, cleo.URI())
	ok(t, err)
	consulted := answers(t, ctx, cleo)
	ok(t, other.WaitAnswered(ctx))
	ok(t, other.Hears(ctx, 700))
	ok(t, other.Hold(ctx))
	status, err := out.ReferReplaces(ctx, other)
	transferred{status, err}.is(t, 200)
	over(t, ctx, consulted)
	over(t, ctx, other)
	got := call(t, cleo)
	if got.Replaced() != consulted {
		t.Error("not in the place of the consultation")
	}
	ok(t, sent(t, bob).Hears(ctx, 700))
	ok(t, got.Hears(ctx, 1000))
	ok(t, out.Hangup(ctx))
	over(t, ctx, in)
}

// A phone that rings refuses a Replaces of the early dialog, for it did not
// begin it (RFC 3891 §3): only a server in between can do this.
func TestSemiAttendedTransfer(t *testing.T) {
	t.Parallel()
	ana, bob, out, _ := pair(t, site.UDP)
	cleo := phone(t, Config{User: "203", Tone: 700})
	ctx := within(t, 10*time.Second)
	consult := func() (other, ringing *Call) {
		other, err := ana.DialStart(ctx, cleo.URI())
		ok(t, err)
		if _, known := other.Replaces(); known {
			t.Error("a dialog before anybody rang")
		}
		ringing = call(t, cleo)
		ok(t, ringing.Ring())
		ok(t, other.WaitRinging(ctx))
		return other, ringing
	}
	other, ringing := consult()
	r, _ := other.Replaces()
	if want := (Replaces{CallID: ringing.ID(), ToTag: ringing.dlg.localTag, FromTag: ringing.dlg.remoteTag}); r != want {
		t.Errorf("early dialog %+v, want %+v", r, want)
	}
	status, err := out.ReferReplaces(ctx, other)
	transferred{status, err}.is(t, 481)
	if c := sent(t, bob); message.Get(c.Request(), "Replaces") != r.String() {
		t.Errorf("dialled with Replaces %q, want %q", message.Get(c.Request(), "Replaces"), r)
	}
	ok(t, other.Hangup(ctx))
	over(t, ctx, ringing)

	other, ringing = consult()
	done := goTransfer(func() (int, error) { return out.ReferRinging(ctx, other) })
	over(t, ctx, ringing)
	if e := ringing.Cause(); e.Status != 487 {
		t.Errorf("consultation ended: %+v", e)
	}
	got := answers(t, ctx, cleo)
	(<-done).is(t, 200)
	ok(t, got.Hears(ctx, 1000))
}

func TestDialInPlaceOfACall(t *testing.T) {
	t.Parallel()
	ana, bob, out, in := pair(t, site.UDP)
	cleo := phone(t, Config{User: "203", Tone: 700})
	ctx := within(t, 10*time.Second)
	r, _ := out.Replaces()
	var no *Refusal
	for _, x := range []struct {
		change func(*Replaces)
		want   int
	}{{func(r *Replaces) { r.EarlyOnly = true }, 486}, {func(r *Replaces) { r.FromTag = "x" }, 481}, {func(r *Replaces) { r.ToTag = "x" }, 481},
		{func(r *Replaces) { r.ToTag = "" }, 400}} {
		wrong := r
		x.change(&wrong)
		if _, err := cleo.DialReplacing(ctx, bob.URI(), wrong); !errors.As(err, &no) || no.Status != x.want {
			t.Errorf("Replaces %s: %v, want %d", wrong, err, x.want)
		}
	}
	c, err := cleo.DialReplacing(ctx, bob.URI(), r)
	ok(t, err)
	ok(t, c.Hears(ctx, 1000))
	over(t, ctx, out)
	if e := out.Cause(); e.Here {
		t.Errorf("replaced call: %+v", e)
	}
	over(t, ctx, in)

	ringing, err := ana.DialStart(ctx, bob.URI()) // an early dialog that ana began is hers to give away
	ok(t, err)
	call(t, bob) // in the place of the first call
	there := call(t, bob)
	ok(t, there.Ring())
	ok(t, ringing.WaitRinging(ctx))
	early, _ := there.Replaces()
	early.EarlyOnly = true
	c, err = cleo.DialReplacing(ctx, ana.URI(), early)
	ok(t, err)
	ok(t, c.Hears(ctx, 440))
	over(t, ctx, there)
}
