package supplementary

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/internal/site"
)

func TestNumber(t *testing.T) {
	for dialled, want := range map[string]string{"201": "201", "*201#": "201", "201#": "201", "*00472009999#": "00472009999", "*#": "", "": ""} {
		if got := Number(dialled); got != want {
			t.Errorf("%q: %q, want %q", dialled, got, want)
		}
	}
}

// refusing is a house that refuses everything, and a caller who dialled.
type refusing struct {
	features.Call
	arg   string
	cause error
	asked int
}

func (r *refusing) Set(context.Context, site.Party, Service, string, bool) error {
	r.asked++
	return r.cause
}
func (r *refusing) From() site.Party { return site.Party{} }
func (r *refusing) Chain() string    { return "c" }
func (r *refusing) Arg() string      { return r.arg }

func TestWhatIsRefusedIsNotAnswered(t *testing.T) {
	r := &refusing{cause: site.Forbidden}
	all, err := New(Config{Wishes: r, Logger: slog.New(slog.DiscardHandler)})
	if err != nil || len(all) != len(Codes) {
		t.Fatal(len(all), err)
	}
	seen := map[site.FeatureName]bool{}
	for i, f := range all {
		if seen[f.Name()] {
			t.Errorf("%s is there twice", f.Name())
		}
		seen[f.Name()] = true
		r.arg, r.asked = "", 0
		err := f.ServeCall(t.Context(), r)
		if Codes[i].Number() && (!errors.Is(err, site.Incomplete) || r.asked != 0) {
			t.Errorf("%s without a number: %v, asked %d times", f.Name(), err, r.asked)
		}
		r.arg = "201"
		if err := f.ServeCall(t.Context(), r); !errors.Is(err, site.Forbidden) { // Answer would panic
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}
