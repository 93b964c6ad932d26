package state

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// a site of n users with their phones, without the changes' bytes, which the
// real engine keeps on disk.
func crowd(b *testing.B, n int) (*box, float64) {
	w := newWorld(b)
	x := w.box(siteA, "0001")
	if _, err := x.PutSite(context.Background(), "founder", Site{ID: siteA, Code: "0001", Name: "One", ExtLen: 5}); err != nil {
		b.Fatal(err)
	}
	before := heap()
	for i := range n {
		w.create(x, fmt.Sprintf("%05d", i), "User of this Site")
	}
	x.m.all, x.m.has = nil, map[crdt.ID]bool{}
	return x, float64(heap()-before) / float64(n)
}

// BenchmarkUsers10000 says what 10,000 users of a site cost in memory, and what
// a call's look-ups cost among them.
func BenchmarkUsers10000(b *testing.B) {
	x, each := crowd(b, 10_000)
	b.Run("lookup", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, ok := x.Pick(numbers[i%len(numbers)]); !ok {
				b.Fatal("nobody")
			}
		}
		b.ReportMetric(each, "B/user")
	})
	b.Run("settings", func(b *testing.B) {
		e, _ := x.Pick(numbers[7])
		for b.Loop() {
			if _, ok := x.Settings(e.User); !ok {
				b.Fatal("nobody")
			}
		}
	})
	b.Run("credentials", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if len(x.Credentials(numbers[i%len(numbers)], "s0001.shops.example")) != 1 {
				b.Fatal("nobody")
			}
		}
	})
	b.Run("user with ETag", func(b *testing.B) {
		e, _ := x.Pick(numbers[7])
		for b.Loop() {
			if _, err := x.User(e.User); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if len(x.Users(false)) != 10_000 {
				b.Fatal("some are missing")
			}
		}
	})
	b.Run("repair of nothing", func(b *testing.B) {
		for b.Loop() {
			if n, err := x.Repair(context.Background()); n != 0 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

var numbers = func() (out []string) {
	for i := range 1000 {
		out = append(out, fmt.Sprintf("0001%05d", i*9))
	}
	return out
}()

// BenchmarkDirectory300000 is the directory of a whole fleet at one node.
func BenchmarkDirectory300000(b *testing.B) {
	const n = 300_000
	w := newWorld(b)
	x := w.box(siteA, "0001")
	before := heap()
	for i := 0; i < n; i += crdt.MaxWrites {
		m := Mutation{Scope: crdt.Fleet}
		for j := i; j < min(i+crdt.MaxWrites, n); j++ {
			id, err := x.newID()
			if err != nil {
				b.Fatal(err)
			}
			m.Writes = append(m.Writes, crdt.Write{Table: TableDirectory, Record: trust.SiteRecord(siteA, id), Field: dirEntry,
				Value: marshal(wireEntry{Number: fmt.Sprintf("0001%06d", j), Name: "User of this Site", Home: siteA[:], Written: uint64(crdt.MakeStamp(w.now.UnixMilli(), 1))})})
		}
		if _, err := x.commit(context.Background(), m); err != nil {
			b.Fatal(err)
		}
	}
	x.m.all, x.m.has = nil, map[crdt.ID]bool{}
	each := float64(heap()-before) / n
	b.Run("lookup", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if e, ok := x.Pick(fmt.Sprintf("0001%06d", i*7%n)); !ok || e.Home != site.ID(siteA) {
				b.Fatal("nobody")
			}
		}
		b.ReportMetric(each, "B/entry")
	})
}
