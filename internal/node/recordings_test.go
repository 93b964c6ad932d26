package node

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/site"
)

// leaves a message for a user at a box, as voicemail does.
func (b *box) leaves(u site.RecordID, said []byte) site.BlobRef {
	b.t.Helper()
	ctx := context.Background()
	r, err := audio{b.n}.Create(ctx, []byte("note"))
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := r.Write(said); err != nil {
		b.t.Fatal(err)
	}
	ref, size, err := r.Commit(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	m := site.Message{ID: site.RecordID(ref[:len(site.RecordID{})]), Mailbox: u, From: "0001", At: b.n.now(), Audio: ref, Size: size}
	if err := (mailboxes{b.n.state.Mailboxes(), b.n}).Deliver(ctx, m); err != nil {
		b.t.Fatal(err)
	}
	if err := r.Done(); err != nil {
		b.t.Fatal(err)
	}
	return ref
}

func (b *box) says(ref site.BlobRef) []byte {
	b.t.Helper()
	r, err := b.n.blobs.Open(ref)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	said, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return said
}

// TestARecordingIsAtItsHomeAndOnceAtItsStandIn: a shop with one box does not lose
// its messages with it.
func TestARecordingIsAtItsHomeAndOnceAtItsStandIn(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	b2 := newBox(t, "b2").up(a.invite("0002"))
	u := a.user("250", "Eve")
	v := b.user("260", "Bo")
	said := bytes.Repeat([]byte("a voice "), 20_000)
	ref := a.leaves(u.ID, said)
	until(t, "one box of the stand-in has a copy", func() bool { return b.n.blobs.Has(ref) || b2.n.blobs.Has(ref) })
	until(t, "nothing is only at a", func() bool { return a.back.Status(context.Background()).Only.Blobs == 0 })
	if b.n.blobs.Has(ref) && b2.n.blobs.Has(ref) {
		t.Error("both boxes of the stand-in have a copy")
	}
	until(t, "nobody wants more", func() bool { return len(a.n.wanted())+len(b.n.wanted())+len(b2.n.wanted()) == 0 })

	// The shop's disk is lost: it comes back from the stand-in.
	if err := a.n.blobs.Delete(ref); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfTests)
	defer cancel()
	if err := a.n.bring(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.says(ref), said) {
		t.Fatal("something else came back")
	}

	// A message for another site is held here until that site has it.
	until(t, "a knows Bo", func() bool { _, ok := a.n.state.Entry(v.ID); return ok })
	far := a.leaves(v.ID, said[:5000])
	until(t, "both boxes of its home have it", func() bool { return b.n.blobs.Has(far) && b2.n.blobs.Has(far) })
	until(t, "it is owed no more", func() bool { return !a.n.owesAudio(ctx, far) })

	// Nothing that is wanted by nobody was ever here.
	err := a.n.bring(ctx, site.BlobRef{1})
	if err == nil || !strings.Contains(err.Error(), "none of the 2 boxes that should have it has it") {
		t.Errorf("asked for what nobody has: %v", err)
	}
	b.down()
	b2.down()
	start := time.Now()
	if err := a.n.blobs.Delete(ref); err != nil {
		t.Fatal(err)
	}
	if err := a.n.bring(context.Background(), ref); err == nil || !strings.Contains(err.Error(), "none of the 2 boxes that may have it can be reached") {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	t.Logf("that nobody can be reached is known after %v", time.Since(start))
}

// TestWhatIsNamedInAnyWayIsNotCollected: the last look before a recording goes
// finds it in fields that this version does not know.
func TestWhatIsNamedInAnyWayIsNotCollected(t *testing.T) {
	a := newBox(t, "a").up("")
	u := a.user("250", "Eve")
	named := a.leaves(u.ID, []byte("named"))
	r, err := a.n.blobs.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Write([]byte("once named"))
	loose, _, err := r.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	var ran time.Duration
	c := blob.NewCollector(blob.CollectConfig{Store: a.n.blobs, Elapsed: func() time.Duration { return ran }, Mentions: a.n.mentions,
		Named: func(site.BlobRef) bool { return false }, // an old version
		Owed:  func(ref site.BlobRef) bool { return a.n.owesAudio(t.Context(), ref) }, Removed: func([]site.BlobRef) {}})
	for range blob.Grace/blob.SweepEvery + 1 {
		ran += blob.SweepEvery
		if _, err := c.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	if a.n.blobs.Has(loose) || !a.n.blobs.Has(named) {
		t.Errorf("of no use: still here %v; named: here %v", a.n.blobs.Has(loose), a.n.blobs.Has(named))
	}
}

// TestRecordingsKeepToTheirRate: a box that was told a rate sends recordings to
// another site no faster, to the other box of its own site as fast as it can, and
// says the rate.
func TestRecordingsKeepToTheirRate(t *testing.T) {
	const kbit, size = 256, 96_000 // 3 s
	a := newBox(t, "a").up("")
	b := newBox(t, "b")
	b.cfg.RecordingsKbit = kbit
	b.up(a.invite("0002"))
	b2 := newBox(t, "b2").up(a.invite("0002"))
	u, v := a.user("250", "Eve"), b.user("260", "Bo")
	until(t, "b knows Eve", func() bool { _, ok := b.n.state.Entry(u.ID); return ok })
	said := make([]byte, size)
	for i := range said {
		said[i] = byte(i * i >> 3)
	}
	begun := time.Now()
	ref := b.leaves(u.ID, said)
	until(t, "its home has it", func() bool { return a.n.blobs.Has(ref) })
	if took, least := time.Since(begun), time.Duration(size*8/kbit)*time.Millisecond*8/10; took < least {
		t.Errorf("to another site it took %v, at %d kbit/s it takes %v at least", took, kbit, least)
	}
	said[0]++
	begun = time.Now()
	near := b.leaves(v.ID, said)
	until(t, "the pair has it", func() bool { return b2.n.blobs.Has(near) })
	if took, most := time.Since(begun), time.Duration(size*8/kbit)*time.Millisecond*8/10; took > most {
		t.Errorf("within the site it took %v, as if it had a rate", took)
	}
	if got := b.back.Status(t.Context()).Node.RecordingsKbit; got != kbit {
		t.Errorf("status says %d", got)
	}
}

// TestAPairTakesARecordingFromElsewhereOnce: a message left at another site is
// wanted by both boxes of its home at once, and comes over the WAN once.
func TestAPairTakesARecordingFromElsewhereOnce(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	b2 := newBox(t, "b2").up(a.invite("0002"))
	v := b.user("260", "Bo")
	until(t, "a knows Bo", func() bool { _, ok := a.n.state.Entry(v.ID); return ok })
	until(t, "b2 knows Bo", func() bool { _, ok := b2.n.state.Entry(v.ID); return ok })
	sent := func() int64 { return a.n.mesh.Stats(b.peer()).Out + a.n.mesh.Stats(b2.peer()).Out }
	before := sent()
	said := make([]byte, 600_000)
	for i := range said {
		said[i] = byte(i * i >> 3)
	}
	ref := a.leaves(v.ID, said)
	until(t, "both boxes of its home have it", func() bool { return b.n.blobs.Has(ref) && b2.n.blobs.Has(ref) })
	got := sent() - before
	t.Logf("%d bytes left a for a recording of %d", got, len(said))
	if got > int64(len(said))*5/4 {
		t.Errorf("%d bytes left a for a recording of %d", got, len(said))
	}
	if !bytes.Equal(b.says(ref), said) || !bytes.Equal(b2.says(ref), said) {
		t.Error("something else came")
	}
}
