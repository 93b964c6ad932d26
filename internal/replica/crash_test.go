package replica

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

// TestPowerCutAtEveryDiskCall runs the same work again and again, cuts the
// power one disk call later each time, and wants after the restart: everything
// acknowledged, nothing twice, fingerprints as recomputed, no damage reported.
func TestPowerCutAtEveryDiskCall(t *testing.T) {
	bob := newMember("bob")
	work := func(n *node) (acked map[string]string, ok bool) {
		acked = map[string]string{}
		for i := range 6 {
			key := fmt.Sprint("u", i%3) // later writes cover earlier ones
			value := fmt.Sprint("v", i)
			if _, err := n.put(siteA, key, "name", value); err != nil {
				return acked, false
			}
			acked[key] = value
		}
		c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
			Writes: []crdt.Write{write(1, "held", "name", "Bob")}}
		if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
			t.Fatal(err)
		}
		if _, _, err := n.e.Submit(context.Background(), c.Raw()); err != nil {
			return acked, false
		}
		acked["held"] = "held"
		if _, err := n.put(siteB, "out", "name", "x"); err != nil {
			return acked, false
		}
		acked["outbox"] = "x"
		if _, err := n.e.Commit(context.Background(), Mutation{Scope: siteA, Writes: []crdt.Write{{Table: 1, Record: "u2", Flags: crdt.Final}}}); err != nil {
			return acked, false
		}
		acked["u2"] = "purged"
		return acked, true
	}
	cuts := 0
	for at := 1; ; at++ {
		n, m := alone(t)
		m.CrashAt(at)
		acked := map[string]string{}
		ok := false
		if s, err := m.Open(); err == nil {
			if err := n.start(s); err == nil {
				acked, ok = work(n)
				n.stop()
			}
		}
		if ok {
			break
		}
		cuts++
		n.mustStart(m)
		st := n.e.Status()
		if len(st.Damage) != 0 || st.ReadOnly != nil {
			t.Fatalf("cut at call %d: %+v", at, st)
		}
		for key, value := range acked {
			switch key {
			case "held":
				if st.Held != 1 {
					t.Fatalf("cut at call %d: the held change is gone", at)
				}
			case "outbox":
				if st.Outbox != 1 {
					t.Fatalf("cut at call %d: the outbox is empty", at)
				}
			default:
				got := n.values(siteA, key, "name")
				if value == "purged" && len(got) == 0 {
					continue
				}
				// The next write may have reached the disk without an answer.
				if len(got) > 1 || len(got) == 0 && acked["outbox"] == "" || len(got) == 1 && got[0] < value {
					t.Fatalf("cut at call %d: %s is %v, acknowledged was %s", at, key, got, value)
				}
			}
		}
		if _, err := n.put(siteA, "after", "name", "x"); err != nil {
			t.Fatalf("cut at call %d: %v", at, err)
		}
		before := n.fingerprint(siteA)
		n.stop()
		n.mustStart(m)
		if n.fingerprint(siteA) != before {
			t.Fatalf("cut at call %d: another fingerprint after one more restart", at)
		}
		n.stop()
	}
	if cuts < 15 {
		t.Fatalf("only %d cuts: the work does not reach the disk", cuts)
	}
	t.Logf("%d cuts", cuts)
}

// TestEveryDiskCallFailsOnce lets each call fail once; the node goes on, and
// what it acknowledged is there after a restart.
func TestEveryDiskCallFailsOnce(t *testing.T) {
	for at := 1; at <= 24; at++ {
		n, m := alone(t)
		var mu sync.Mutex
		now := time.Now()
		n.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Second); return now }
		m.FailAt(at, disktest.ErrIO)
		s, err := m.Open()
		if err == nil {
			err = n.start(s)
		}
		if err != nil {
			continue // the start itself met the fault, and said so
		}
		acked, failed := map[string]bool{}, 0
		for i := range 12 {
			key := fmt.Sprint("u", i)
			if _, err := n.put(siteA, key, "name", "x"); err != nil {
				failed++
			} else {
				acked[key] = true
			}
		}
		if failed > 1 {
			t.Fatalf("fault at call %d: %d writes failed", at, failed)
		}
		n.stop()
		n.mustStart(m)
		for key := range acked {
			n.want(siteA, key, "name", "x")
		}
		if st := n.e.Status(); len(st.Damage) != 0 {
			t.Fatalf("fault at call %d: %v", at, st.Damage)
		}
		n.stop()
	}
}

// killed is one process of TestKillNine: writers on Badger that print what was
// acknowledged.
func killed(dir string) {
	store, err := disk.OpenBadger(disk.Options{Dir: dir, Reserve: 1 << 20, Ballast: -1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	ann := newMember("ann")
	n := ann.node(nil, newGate(ann), holding(crdt.Trust, crdt.Fleet, siteA))
	n.cfg.Random = rand.NewChaCha8([32]byte{byte(os.Getpid()), byte(os.Getpid() >> 8)})
	if err := n.start(store); err != nil {
		fmt.Println("error", err)
		return
	}
	if d := n.e.Status().Damage; len(d) > 0 {
		fmt.Println("error", d)
	}
	out := make(chan string, 64)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d-%d", os.Getpid()%1_000_000, w, i)
				// Each writer also counts in one cell, covering itself.
				_, err := n.e.Commit(context.Background(), Mutation{Scope: siteA, Writes: []crdt.Write{
					write(1, key, "name", key), write(2, fmt.Sprint("count", w), "n", fmt.Sprintf("%012d", time.Now().UnixMicro()))}})
				if err != nil {
					out <- "error " + err.Error()
					return
				}
				out <- "ack " + key
			}
		}()
	}
	w := bufio.NewWriter(os.Stdout)
	for line := range out {
		w.WriteString(line + "\n")
		if len(out) == 0 {
			w.Flush()
		}
	}
}

// TestKillNine kills a writing process again and again at random instants and
// wants every acknowledged write.
func TestKillNine(t *testing.T) {
	if dir := os.Getenv("CCNODE_TEST_KILLED"); dir != "" {
		killed(dir)
		return
	}
	if testing.Short() {
		t.Skip("100 kills")
	}
	kills := 100 // the instants of all follow from the seed
	if s := os.Getenv("CCNODE_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	const seed = 2
	rng := rand.New(rand.NewPCG(seed, seed))
	total := 0
	for left := kills; left > 0; {
		dir, acked := t.TempDir(), map[string]bool{}
		for range min(left, 20) {
			left--
			killOne(t, dir, time.Duration(rng.IntN(60_000))*time.Microsecond, acked)
		}
		if lost := lostIn(t, dir, acked); lost > 0 {
			t.Fatalf("seed %d: %d of %d acknowledged writes lost", seed, lost, len(acked))
		}
		total += len(acked)
	}
	t.Logf("%d kills, %d acknowledged writes, 0 lost", kills, total)
}

// killOne runs a writing process on dir and kills it some time after its first
// acknowledged write. The instant is drawn, the clock is real: that is the test.
func killOne(t *testing.T, dir string, after time.Duration, acked map[string]bool) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillNine$")
	cmd.Env = append(os.Environ(), "CCNODE_TEST_KILLED="+dir)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(pipe)
	started := false
	for sc.Scan() {
		line := sc.Text()
		if key, ok := strings.CutPrefix(line, "ack "); ok {
			acked[key] = true
			if !started {
				started = true
				time.AfterFunc(after, func() { cmd.Process.Kill() })
			}
		} else if strings.HasPrefix(line, "error") {
			t.Error(line)
			cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if !started {
		t.Fatal("a process ended before it acknowledged anything")
	}
}

// lostIn counts acknowledged writes that are not in the store of dir.
func lostIn(t *testing.T, dir string, acked map[string]bool) (lost int) {
	store, err := disk.OpenBadger(disk.Options{Dir: dir, Reserve: 1 << 20, Ballast: -1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ann := newMember("ann")
	n := ann.node(t, newGate(ann), holding(crdt.Trust, crdt.Fleet, siteA))
	if err := n.start(store); err != nil {
		t.Fatal(err)
	}
	defer n.stop()
	for key := range acked {
		if got := n.values(siteA, key, "name"); len(got) != 1 || got[0] != key {
			lost++
		}
	}
	if st := n.e.Status(); len(st.Damage) > 0 {
		t.Errorf("damage reported: %v", st.Damage)
	}
	for w := range 8 {
		n.e.View(func(v View) {
			if vs := v.Set(siteA).Versions(crdt.Cell{Scope: siteA, Table: 2, Record: fmt.Sprint("count", w), Field: "n"}); len(vs) != 1 {
				t.Errorf("counter %d has %d versions: an actor did not cover itself", w, len(vs))
			}
		})
	}
	return lost
}
