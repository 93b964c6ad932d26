package replica

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

func badgerAt(t testing.TB, dir string) disk.Store {
	t.Helper()
	s, err := disk.OpenBadger(disk.Options{Dir: dir, Reserve: 1 << 20, Ballast: -1, Quiet: 2 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func onBadger(t testing.TB, dir string, known ...*member) *node {
	t.Helper()
	ann := newMember("ann")
	n := ann.node(t, newGate(append(known, ann)...), holding(crdt.Trust, crdt.Fleet, siteA))
	if err := n.start(badgerAt(t, dir)); err != nil {
		t.Fatal(err)
	}
	return n
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkLocalAck compares the acknowledgement of one durable write with a
// plain fsync of a small append on the same medium in the same run. The goal is
// p50 ≤ 2 × fsync p50 + 2 ms.
func BenchmarkLocalAck(b *testing.B) {
	dir := b.TempDir()
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n := onBadger(b, filepath.Join(dir, "state"))
	defer n.stop()
	var plain, acks []time.Duration
	i := 0
	for b.Loop() {
		at := time.Now()
		if _, err := f.Write(make([]byte, 300)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		plain = append(plain, time.Since(at))
		at = time.Now()
		if _, err := n.put(siteA, fmt.Sprint("u", i), "name", "somebody"); err != nil {
			b.Fatal(err)
		}
		acks = append(acks, time.Since(at))
		i++
	}
	fs, ack := median(plain), median(acks)
	b.ReportMetric(float64(fs.Microseconds()), "fsync-p50-µs")
	b.ReportMetric(float64(ack.Microseconds()), "ack-p50-µs")
	if i > 100 && ack > 2*fs+2*time.Millisecond {
		b.Errorf("ack p50 %v, goal 2 × %v + 2 ms", ack, fs)
	}
}

// changes seals n changes of m, each with one field.
func (m *member) changes(t testing.TB, n int) []*crdt.Change {
	out := make([]*crdt.Change, n)
	for i := range out {
		out[i] = &crdt.Change{Scope: siteA, Node: m.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), uint16(i)), Auth: m.auth,
			Writes: []crdt.Write{write(1, fmt.Sprintf("record%06d", i), "\x01", "a name of somebody")}}
		if err := crdt.Seal(out[i], testFleet, m.sign); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// BenchmarkDurableMerge takes signed changes of another node in deliveries of
// 64, verified, stored and merged. The goal is ≥ 5,000 changes a second.
func BenchmarkDurableMerge(b *testing.B) {
	bob := newMember("bob")
	const total = 10_000
	cs := bob.changes(b, total)
	for b.Loop() {
		n := onBadger(b, b.TempDir(), bob)
		done := make(chan error, total)
		at := time.Now()
		for group := range slices.Chunk(cs, 64) {
			d := &delivery{peer: bob.id, then: func(err, refused error) { done <- err }}
			for _, c := range group {
				d.changes = append(d.changes, &incoming{c: c})
			}
			if err := n.e.verifiers.submit(context.Background(), d); err != nil {
				b.Fatal(err)
			}
		}
		for range (total + 63) / 64 {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		took := time.Since(at)
		b.ReportMetric(total/took.Seconds(), "changes/s")
		if got := n.e.Status().Scopes[0].Changes; got != total {
			b.Fatalf("%d changes", got)
		}
		n.stop()
	}
}

// BenchmarkStart reads 100,000 changes from disk.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	bob := newMember("bob")
	n := onBadger(b, dir, bob)
	const total = 100_000
	done := make(chan error, total)
	groups := 0
	for group := range slices.Chunk(bob.changes(b, total), 500) {
		d := &delivery{then: func(err, _ error) { done <- err }}
		for _, c := range group {
			d.changes = append(d.changes, &incoming{c: c, verified: genuine})
		}
		n.e.inbox.deliver(d)
		groups++
	}
	for range groups {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	n.stop()
	for b.Loop() {
		at := time.Now()
		n := onBadger(b, dir, bob)
		b.ReportMetric(time.Since(at).Seconds(), "s/100k-changes")
		if got := n.e.Status(); got.Scopes[0].Changes != total || len(got.Damage) > 0 {
			b.Fatalf("%+v", got)
		}
		n.stop()
	}
}

// TestMemoryOfTenThousandUsers starts a process on the data of 10,000 users:
// each a change of 8 fields for the user, 4 for the device, 3 for the directory.
func TestMemoryOfTenThousandUsers(t *testing.T) {
	if dir := os.Getenv("CCNODE_TEST_MEMORY"); dir != "" {
		n := onBadger(t, dir)
		changes := 0
		for _, s := range n.e.Status().Scopes {
			changes += s.Changes
		}
		debug.FreeOSMemory()
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
				fmt.Println("RSS", f[1], "CHANGES", changes)
			}
		}
		n.stop()
		return
	}
	if testing.Short() {
		t.Skip("10,000 users")
	}
	dir := t.TempDir()
	n := onBadger(t, dir)
	const users = 10_000
	errs := make(chan error, 3*users)
	fill := func(scope crdt.Scope, table uint16, i, fields int) {
		var ws []crdt.Write
		for f := range fields {
			ws = append(ws, write(table, fmt.Sprintf("%010d", i), string(rune('a'+f)), "a value of 20 bytes."))
		}
		_, err := n.e.Commit(context.Background(), Mutation{Scope: scope, Writes: ws})
		errs <- err
	}
	for i := range users {
		go fill(siteA, 1, i, 8)
		go fill(siteA, 2, i, 4)
		go fill(crdt.Fleet, 3, i, 3)
		if i%100 == 99 {
			for range 300 {
				if err := <-errs; err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	n.stop()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfTenThousandUsers$")
	cmd.Env = append(os.Environ(), "CCNODE_TEST_MEMORY="+dir, "GOMEMLIMIT=100MiB")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := strings.Fields(string(out))
	if len(f) < 4 || f[0] != "RSS" || f[3] != strconv.Itoa(3*users) {
		t.Fatalf("got %s", out)
	}
	kb, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MB RSS with the state of %d users (%d changes)", kb>>10, users, 3*users)
	if kb > 110<<10 {
		t.Errorf("%d MB RSS: the whole node may have 150 MB", kb>>10)
	}
}
