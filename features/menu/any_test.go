package menu

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/internal/site"
)

// Whatever the data says, also what Validate refuses, and whatever the caller
// presses: the visit ends, with nothing left behind.
func TestAnyMenuAndAnyCallerComeToAnEnd(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		page := func() (p Page) {
			kinds := []Kind{"", Extension, User, Group, Voicemail, SubMenu, SubMenu, Directory, Repeat, Back, Back, HangUp, "nonsense"}
			dest := func() Destination {
				return Destination{Kind: kinds[r.IntN(len(kinds))], Number: "20", Record: id(byte(50 + r.IntN(4)))}
			}
			p.Keys = make(map[rune]Destination)
			for _, k := range KeyNames + "A" {
				if r.IntN(3) > 0 {
					p.Keys[k] = dest()
				}
			}
			if r.IntN(4) == 0 {
				p.Keys = nil
			}
			p.Greeting = [][]Spoken{nil, {{}}, say("plus"), say("nonsense"), {{Blob: site.BlobRef{1}}}}[r.IntN(5)]
			p.Dial, p.Keep = r.IntN(2) == 0, r.IntN(4) == 0
			p.Digits, p.MaxInvalid, p.MaxLate = r.IntN(12)-2, r.IntN(40)-2, r.IntN(40)-2
			p.Wait, p.Between = time.Duration(r.IntN(4)-1)*time.Second, time.Duration(r.IntN(4)-1)*time.Second
			p.Fallback = dest()
			return p
		}
		var menus []Menu
		for n := byte(50); n < 53; n++ { // 53 is missing
			m := Menu{ID: id(n), Open: page()}
			if r.IntN(2) == 0 {
				closed := page()
				m.Closed = &closed
			}
			menus = append(menus, m)
		}
		keys := KeyNames + "A"
		if seed%3 == 0 {
			keys = "*"
		}
		in(t, func(h *house) {
			h.closed = r.IntN(2) == 0
			v := h.dial(func(ctx context.Context, to features.Target) (features.Outcome, error) {
				return features.Outcome{Cause: site.Cause((len(to.Extension) + int(to.Record[0])) % 20)}, nil
			})
			over := make(chan struct{})
			var pressing sync.WaitGroup
			pressing.Go(func() {
				for v.phone.Press(v.ctx, string(keys[r.IntN(len(keys))])) == nil {
					select {
					case <-time.After(time.Duration(r.IntN(9000)) * time.Millisecond):
					case <-over:
						return
					}
				}
			})
			began := time.Now()
			v.ended()
			if d := time.Since(began); d > 50*time.Minute {
				h.Errorf("seed %d went on for %v", seed, d)
			}
			close(over)
			v.phone.Close()
			pressing.Wait()
		}, menus...)
	}
}
