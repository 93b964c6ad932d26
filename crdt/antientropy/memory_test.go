package antientropy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// Two memories that carry the same messages read each other, whatever the
// sizes, and keep no more than they may.
func TestMemoriesStayAlike(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var from, to memory
	words := make([][]byte, 20)
	for i := range words {
		sum := sha256.Sum256([]byte{byte(i)})
		words[i] = sum[:1+rng.IntN(32)]
	}
	for i := range 2000 {
		var b []byte
		for range 1 + rng.IntN(8) {
			b = append(b, words[rng.IntN(len(words))]...)
		}
		if i%50 == 0 {
			b = bytes.Repeat(b, 1+rng.IntN(60)) // beyond the memory
		}
		kind := []byte{kindBatch, kindPush, kindDone}[rng.IntN(3)]
		k, got, err := to.split(from.seal(kind, b))
		if err != nil || k != kind || !bytes.Equal(got, b) {
			t.Fatalf("message %d: kind %d, %d bytes of %d, %v", i, k, len(got), len(b), err)
		}
		if len(to.text) > memorySize || !bytes.Equal(from.text, to.text) {
			t.Fatalf("after message %d the memories are %d and %d bytes", i, len(from.text), len(to.text))
		}
	}
}

// A memory that missed a message does not guess.
func TestAMissedMessageIsNoticed(t *testing.T) {
	var from, to memory
	b := bytes.Repeat([]byte("what everybody says "), 5)
	for range 3 {
		if _, _, err := to.split(from.seal(kindBatch, b)); err != nil {
			t.Fatal(err)
		}
	}
	from.seal(kindBatch, b) // lost
	if _, _, err := to.split(from.seal(kindBatch, b)); !errors.Is(err, errPieces) {
		t.Errorf("the message after a lost one: %v, want %v", err, errPieces)
	}
	to = memory{} // as on a new link
	if _, _, err := to.split(from.seal(kindBatch, b)); !errors.Is(err, errPieces) {
		t.Errorf("a message of another link: %v, want %v", err, errPieces)
	}
}

// Of a second change of the same field only what is new travels: 64 bytes of
// signature, stamps and the value.
func TestTheSecondChangeIsShort(t *testing.T) {
	w := newWorld(t, 2)
	w.link(0, 1, true)
	w.settle()
	var sizes []int
	for i := range 4 {
		w.bytes = 0
		w.boxes[0].write("0123456789abcdef", fmt.Sprint("value ", i))
		w.collect(0)
		w.settle()
		sizes = append(sizes, w.bytes)
	}
	t.Logf("changes and their acknowledgements: %v bytes", sizes)
	for _, n := range sizes[1:] {
		if n > sizes[0]*2/3 { // in this test the signatures are alike as well
			t.Errorf("%v bytes: later changes are hardly shorter than the first", sizes)
			break
		}
	}
}

// What is meant for a link that is gone is not sent on the next one.
func TestANewLinkBeginsWithItsHello(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	w.link(0, 1, true)
	w.settle()
	a.write("r", "v")
	a.m.LinkUp(b.id)
	msgs := a.m.Ready().Messages
	if len(msgs) != 1 || msgs[0].Body[0] != kindHello {
		t.Errorf("%d messages on a new link, want its hello", len(msgs))
	}
	if n := a.m.Owed(b.id, 10); n != 1 {
		t.Errorf("%d changes are owed, want 1", n)
	}
}

// FuzzMemory: whatever the peer sends in pieces, reading it ends, within the
// limits; what is packed is unpacked to the same.
func FuzzMemory(f *testing.F) {
	f.Add([]byte("earlier text"), []byte{0, 6, 'a', 'b', 'c', 9, 12})
	f.Add([]byte("earlier"), []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Add([]byte{}, []byte{0, 3, 1})
	f.Fuzz(func(t *testing.T, text, in []byte) {
		m := memory{text: text[:min(len(text), memorySize)]}
		if out, err := m.open(in); err == nil && len(out) > maxBody {
			t.Fatalf("%d bytes", len(out))
		}
		out, err := m.unpack(m.pack(nil, in))
		if err != nil || !bytes.Equal(out, in) {
			t.Fatalf("%x became %x, %v", in, out, err)
		}
	})
}
