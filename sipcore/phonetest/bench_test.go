package phonetest

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// One round is 500 phones registering at one server, all at once, each with a
// socket of its own and a challenge (the first time). The phones' own work is in
// the figure; bindings are kept in memory only.
func BenchmarkRegister500(b *testing.B) {
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		b.Run(string(tr), func(b *testing.B) {
			s := &shop{all: map[string]site.Binding{}}
			a := s.serve(b, tr, 1)
			phones := make([]*Phone, 500)
			for i := range phones {
				user := fmt.Sprintf("0001%03d", i)
				p, err := New(Config{User: user, Password: "p" + user, Domain: "shops.example", Servers: []netip.AddrPort{a.addr}, Transport: tr, NoRefresh: true})
				if err != nil {
					b.Fatal(err)
				}
				phones[i] = p
				defer p.Close()
			}
			round := func() (worst time.Duration) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				for _, p := range phones {
					wg.Go(func() {
						start := time.Now()
						if err := p.Register(b.Context()); err != nil {
							b.Error(err)
						}
						took := time.Since(start)
						mu.Lock()
						defer mu.Unlock()
						worst = max(worst, took)
					})
				}
				wg.Wait()
				return worst
			}
			start := time.Now()
			worst := round()
			first := time.Since(start)
			for b.Loop() {
				round()
			}
			b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "registers/s")
			b.ReportMetric(float64(first.Milliseconds()), "ms/first-500")
			b.ReportMetric(float64(worst.Milliseconds()), "ms/slowest-first")
			if n := len(s.all); n != 500 {
				b.Errorf("%d bindings", n)
			}
		})
	}
}
