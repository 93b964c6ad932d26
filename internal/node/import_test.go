package node

import (
	"fmt"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/state"
)

// TestAnImportFitsTheQuota: a site imports 300,000 users, and the other box of
// its pair takes them all at once: nothing waits. Users and quota are a
// hundredth of that here. What would not fit is held, so that the quota is seen
// to count.
func TestAnImportFitsTheQuota(t *testing.T) {
	const part, users = 100, 300_000 / 100
	whole := crdt.DefaultQuota()
	quota := func(of int) crdt.Quota {
		return crdt.Quota{Changes: whole.Changes / of, Bytes: whole.Bytes / int64(of), Burst: whole.Burst / int64(of), Hourly: whole.Hourly / int64(of)}
	}
	for _, x := range []struct {
		name string
		of   int
		fits bool
	}{{"a hundredth", part, true}, {"a thousandth", 10 * part, false}} {
		t.Run(x.name, func(t *testing.T) {
			a, b := newBox(t, "a"), newBox(t, "b")
			a.cfg.ExtLen, b.quota = 5, quota(x.of)
			a.up("")
			b.up(a.invite(""))
			until(t, "both know that they are a pair", func() bool { return a.paired() && b.paired() })
			begun := time.Now()
			for first := 0; first < users; first += state.MaxBulk {
				specs := make([]state.Spec, state.MaxBulk)
				for i := range specs {
					specs[i] = state.Spec{Number: fmt.Sprintf("%05d", first+i), Name: fmt.Sprintf("Person with the number %05d", first+i)}
				}
				made, err := a.n.state.CreateMany(t.Context(), "test", specs)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range made {
					if m.Err != nil {
						t.Fatal(m.Err)
					}
				}
			}
			if !x.fits {
				until(t, "something is held for its quota", func() bool { return b.back.Status(t.Context()).Waiting > 0 })
				return
			}
			until(t, "the other box of the pair has all", func() bool { return b.back.Status(t.Context()).Users == users })
			until(t, "the two hold the same", func() bool {
				of, at := a.back.Status(t.Context()), b.back.Status(t.Context())
				for i := range of.Scopes {
					if of.Scopes[i].Fingerprint != at.Scopes[i].Fingerprint {
						return false
					}
				}
				return true
			})
			s := b.back.Status(t.Context())
			if s.Waiting != 0 {
				t.Errorf("%d changes wait", s.Waiting)
			}
			for _, c := range s.Scopes {
				t.Logf("%s: %d changes", c.Scope, c.Changes)
			}
			t.Logf("%d users at both boxes after %.1f s, %d changes wait", users, time.Since(begun).Seconds(), s.Waiting)
		})
	}
}
