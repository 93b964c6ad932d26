package registrar

import (
	"context"
	"errors"
	"testing"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
)

// far is a home site that is asked about visitors.
type far struct {
	known people
	asked []digest.Credentials
	err   error
	away  string // whose home it is
}

func (f *far) Away(aor site.AOR) bool { return aor.User == f.away }

func (f *far) Introduce(_ context.Context, aor site.AOR, method string, c digest.Credentials) error {
	f.asked = append(f.asked, c)
	if f.err != nil {
		return f.err
	}
	x := person("301", "p301", "0017301")
	if !digest.Matches(x, c, method) {
		return ErrStranger
	}
	f.known["301"] = x
	return nil
}

func TestVisitor(t *testing.T) {
	f := &far{known: people{}, away: "0017301"}
	s := open(t, func(c *Config) {
		d, err := digest.NewServer(digest.Config{Now: c.Now, Store: f.known})
		if err != nil {
			t.Fatal(err)
		}
		c.Visits, c.Digest = f, d
	})
	contact := "Contact: <sip:301@192.168.1.50>"
	f.err = errors.New("its line is cut")
	if got := s.register("301", "0017301", 1, contact); got != 504 {
		t.Fatalf("with the home site away: %d", got)
	}
	f.err = nil
	if got := s.register("301", "0017301", 2, contact); got != 200 || len(f.asked) != 2 {
		t.Fatalf("%d after %d questions", got, len(f.asked))
	}
	if got := s.register("301", "0017301", 3, contact); got != 200 || len(f.asked) != 2 {
		t.Fatalf("a refresh: %d, and %d questions in all", got, len(f.asked))
	}
	// Who is not from elsewhere, or answers wrongly, is challenged as ever.
	if got := s.register("302", "0017302", 1, contact); got != 401 || len(f.asked) != 2 {
		t.Fatalf("a stranger: %d, and %d questions in all", got, len(f.asked))
	}
	delete(f.known, "301")
	if got := s.register("399", "0017301", 1, contact); got != 401 || len(f.asked) != 3 {
		t.Fatalf("a wrong password: %d, and %d questions in all", got, len(f.asked))
	}
	// An answer to a challenge that was never made is not passed on.
	ch := digest.Challenge{Realm: "s0017.shops.example", Nonce: "made up", Algorithm: digest.MD5, QOPAuth: true}
	auth, err := ch.Answer("REGISTER", "sip:shops.example", "301", "p301", "c", 1)
	if err != nil {
		t.Fatal(err)
	}
	s.send("301", "0017301", 9, auth, contact)
	if got := s.said.last.StatusCode; got != 401 || len(f.asked) != 3 {
		t.Fatalf("a nonce that is not ours: %d, and %d questions in all", got, len(f.asked))
	}
}
