package pairing

import (
	"errors"
	"strings"
	"testing"
)

func TestBothShowTheSameDigits(t *testing.T) {
	a, b := Key{1}, Key{2}
	na, nb := Nonce{3}, Nonce{4}
	if err := Open(Commit(a, b, na), a, b, na); err != nil {
		t.Fatal(err)
	}
	if c := Code(a, b, na, nb); len(c) != 6 || c != Code(a, b, na, nb) {
		t.Errorf("got %q", c)
	}
}

func TestAMindChangedIsNoticed(t *testing.T) {
	c := Commit(Key{1}, Key{2}, Nonce{3})
	for name, err := range map[string]error{
		"another nonce":  Open(c, Key{1}, Key{2}, Nonce{4}),
		"another member": Open(c, Key{1}, Key{9}, Nonce{3}),
		"another box":    Open(c, Key{9}, Key{2}, Nonce{3}),
	} {
		if !errors.Is(err, ErrCommitment) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSomebodyInBetweenShowsOtherDigits(t *testing.T) {
	same := 0
	for i := range 2000 {
		n := Nonce{byte(i), byte(i >> 8)}
		if Code(Key{1}, Key{9}, Nonce{3}, n) == Code(Key{9}, Key{2}, n, Nonce{4}) {
			same++
		}
	}
	if same > 2 {
		t.Errorf("%d of 2000 attempts showed the same digits on both sides", same)
	}
}

// FuzzOpen: only what was committed to opens a commitment, and a code is always
// six digits.
func FuzzOpen(f *testing.F) {
	c := Commit(Key{1}, Key{2}, Nonce{3})
	f.Add(c[:], []byte{3})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, commitment, nonce []byte) {
		var got Commitment
		var n Nonce
		copy(got[:], commitment)
		copy(n[:], nonce)
		if err := Open(got, Key{1}, Key{2}, n); (err == nil) != (got == Commit(Key{1}, Key{2}, n)) {
			t.Fatalf("commitment %x, nonce %x: %v", got, n, err)
		}
		code := Code(Key{1}, Key{2}, n, Nonce{4})
		if len(code) != 6 || strings.Trim(code, "0123456789") != "" {
			t.Fatalf("code %q", code)
		}
	})
}
