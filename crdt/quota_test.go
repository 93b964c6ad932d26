package crdt

import (
	"testing"
	"testing/quick"
)

// TestQuotaOfAnImport: 300,000 users at once, as measured on real boxes: 318
// bytes each in the site's scope; 211 and 192 more in what all hold.
func TestQuotaOfAnImport(t *testing.T) {
	q := DefaultQuota()
	var b Bucket
	var own, all Share
	add := func(s *Share, bytes int) {
		if q.Over(*s, bytes, 1) || !b.Has(q, 0, bytes) {
			t.Fatalf("held after %+v in a scope, %d bytes in all", *s, b.Spent(q, 0))
		}
		s.Add(bytes)
		b.Take(q, 0, bytes)
	}
	for range 300_000 {
		add(&own, 318)
		add(&all, 211)
		add(&all, 192)
	}
	t.Logf("%d MB of %d MB at once; %+v in one scope", b.Spent(q, 0)/1e6, q.Burst/1e6, all)
}

// TestQuotaIsABound: whatever an author brings, and whenever, it never has more
// than its share, and never brings more than Burst and Hourly allow.
func TestQuotaIsABound(t *testing.T) {
	q := Quota{Changes: 40, Bytes: 20_000, Burst: 8000, Hourly: 1000}
	err := quick.Check(func(steps []struct {
		Bytes  uint16
		Wait   uint16
		Remove bool
	}) bool {
		var b Bucket
		var s Share
		var sizes []int
		now, brought := int64(1), int64(0)
		for _, x := range steps {
			now += int64(x.Wait) * 100
			if x.Remove && len(sizes) > 0 {
				s.Remove(sizes[0])
				sizes = sizes[1:]
			}
			n := int(x.Bytes)%MaxChange + 1
			if q.Over(s, n, 1) || !b.Has(q, now, n) {
				continue
			}
			s.Add(n)
			b.Take(q, now, n)
			sizes, brought = append(sizes, n), brought+int64(n)
			if s.Changes != len(sizes) || s.Changes > q.Changes || s.Bytes > q.Bytes || brought > q.Burst+(now*q.Hourly)/3_600_000+int64(len(steps)) {
				return false
			}
		}
		return true
	}, &quick.Config{MaxCount: 2000})
	if err != nil {
		t.Error(err)
	}
}

func TestBucketGivesBack(t *testing.T) {
	const hour = 3_600_000
	q := Quota{Burst: 1000, Hourly: 100}
	var b Bucket
	b.Take(q, hour, 1000)
	for _, x := range []struct{ now, spent int64 }{{hour, 1000}, {0, 1000}, {2 * hour, 900}, {6 * hour, 500}, {11 * hour, 0}, {1 << 62, 0}} {
		if got := b.Spent(q, x.now); got != x.spent {
			t.Errorf("at %d: %d, want %d", x.now, got, x.spent)
		}
	}
	if b.Has(q, hour, 1) || !b.Has(q, 2*hour, 100) || b.Has(q, 2*hour, 101) {
		t.Error("what is left is wrong")
	}
	b.Take(q, 2*hour, 100)
	if b.Take(q, 0, 0); b.Spent(q, 2*hour) != 1000 {
		t.Errorf("a clock that went back gave something: %d", b.Spent(q, 2*hour))
	}
}
