package pair

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

func TestWindowIsToldAndAskedFor(t *testing.T) {
	var here Window
	hear := func(refuse error) net.Conn {
		a, b := net.Pipe()
		go HearWindow(b, func(w Window) error { here = w; return refuse }, func() Window { return here })
		return a
	}
	want := Window{Left: time.Minute, MACs: []string{"00:15:65:aa:bb:cc"}}
	if err := TellWindow(hear(nil), want); err != nil {
		t.Fatal(err)
	}
	got, err := AskWindow(hear(nil))
	if err != nil || got.Left != want.Left || !slices.Equal(got.MACs, want.MACs) {
		t.Errorf("asked: %+v, %v", got, err)
	}
	if err := TellWindow(hear(nil), Window{}); err != nil || here.Left != 0 {
		t.Errorf("closed: %+v, %v", here, err)
	}
	if err := TellWindow(hear(errors.New("no")), want); err == nil {
		t.Error("a node that could not open it says that it did")
	}
}

// FuzzWindow: whatever comes, what is taken is a window.
func FuzzWindow(f *testing.F) {
	for _, it := range []windowItem{{}, {Told: &Window{Left: time.Hour, MACs: []string{"x"}}}, {Told: &Window{Left: -1}}} {
		b, err := cbor.Marshal(it)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{0, 0, 0, byte(len(b))}, b...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		it, err := readWindow(bytes.NewReader(in))
		if err == nil && it.Told != nil && it.Told.Left < 0 {
			t.Errorf("took %+v", it.Told)
		}
	})
}
