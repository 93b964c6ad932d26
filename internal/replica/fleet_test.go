package replica

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/memnet"
)

// fleet is some nodes on one network, each a neighbour of each.
type fleet struct {
	t     *testing.T
	net   *memnet.Network
	nodes []*node
	media []*disktest.Medium
	links []*memnet.Node
}

// newFleet starts nodes that hold trust and fleet, and the site in sites.
func newFleet(t *testing.T, sites ...crdt.Scope) *fleet {
	f := &fleet{t: t, net: memnet.New()}
	var members []*member
	var peers []mesh.Peer
	for i := range sites {
		m := newMember(fmt.Sprintf("node%d", i))
		members = append(members, m)
		peers = append(peers, mesh.Peer{ID: mesh.PeerID(m.id), Addrs: []string{"mem"}})
	}
	for i, m := range members {
		tp := holding(crdt.Trust, crdt.Fleet, sites[i])
		for j, o := range members {
			if i == j {
				continue
			}
			n := antientropy.Neighbour{Peer: o.id, Shared: []crdt.Scope{crdt.Trust, crdt.Fleet}}
			if sites[i] == sites[j] {
				n.Shared = []crdt.Scope{crdt.Trust, sites[i], crdt.Fleet}
			} else {
				n.Holds = []crdt.Scope{sites[j]}
			}
			tp.ns = append(tp.ns, n)
		}
		n := m.node(t, newGate(members...), tp)
		x := f.net.Join(mesh.PeerID(m.id))
		x.Admit(peers)
		n.mesh = x
		f.links = append(f.links, x)
		f.nodes = append(f.nodes, n)
		f.media = append(f.media, disktest.NewMedium(uint64(i)))
		n.mustStart(f.media[i])
	}
	return f
}

func (f *fleet) stop() {
	for i, n := range f.nodes {
		n.stop()
		f.links[i].Close()
	}
}

// cut lets only nodes of the same group reach each other.
func (f *fleet) cut(groups ...[]int) {
	var out [][]mesh.PeerID
	for _, g := range groups {
		var ids []mesh.PeerID
		for _, i := range g {
			ids = append(ids, mesh.PeerID(f.nodes[i].id))
		}
		out = append(out, ids)
	}
	f.net.Partition(out...)
}

// settled waits until nobody owes anybody anything, and fails after limit.
func (f *fleet) settled(limit time.Duration) {
	f.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		synctest.Wait()
		open := ""
		for _, n := range f.nodes {
			if st := n.e.Status(); !st.Settled {
				open += fmt.Sprintf("%s: held %d, outbox %d, peers %+v\n", n.name, st.Held, st.Outbox, st.Peers)
			}
		}
		if open == "" {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("not settled after %v:\n%s", limit, open)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (f *fleet) equal(scope crdt.Scope, nodes ...int) {
	f.t.Helper()
	for _, i := range nodes[1:] {
		if a, b := f.nodes[nodes[0]].fingerprint(scope), f.nodes[i].fingerprint(scope); a != b {
			f.t.Fatalf("scope %s: node%d has %s, node%d %s", scope, nodes[0], a, i, b)
		}
	}
}

// bytes sent by all nodes so far.
func (f *fleet) bytes() (n int64) {
	for _, x := range f.links {
		in, out := x.Total()
		n += in + out
	}
	return n
}

func TestBothSidesOfACutAreThereAfterTheHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA, siteB)
		defer f.stop()
		f.nodes[0].mustPut(crdt.Fleet, "u1", "forward", "200")
		f.settled(10 * time.Second)
		for _, n := range f.nodes {
			n.want(crdt.Fleet, "u1", "forward", "200")
		}
		f.cut([]int{0, 1}, []int{2})
		f.nodes[0].mustPut(crdt.Fleet, "u1", "forward", "201")
		time.Sleep(time.Second)
		f.nodes[2].mustPut(crdt.Fleet, "u1", "forward", "202")
		f.nodes[1].mustPut(siteA, "u2", "name", "Ann")
		for i := range 50 {
			f.nodes[1].mustPut(crdt.Fleet, fmt.Sprintf("a%d", i), "name", "x")
			f.nodes[2].mustPut(crdt.Fleet, fmt.Sprintf("b%d", i), "name", "x")
		}
		// A site's own scope can be written from elsewhere; it waits for a holder.
		f.nodes[2].mustPut(siteA, "msg", "entry", "for ann")
		time.Sleep(15 * time.Second)
		f.nodes[0].want(crdt.Fleet, "u1", "forward", "201")
		f.nodes[1].want(crdt.Fleet, "u1", "forward", "201")
		f.nodes[2].want(crdt.Fleet, "u1", "forward", "202")
		if st := f.nodes[2].e.Status(); st.Only.Changes != 52 || st.Outbox != 1 || st.Settled {
			t.Fatalf("the island says %+v", st)
		}
		f.net.Heal()
		f.settled(25 * time.Second) // the pause is at most 16 s after 15 s of cut
		f.equal(crdt.Trust, 0, 1, 2)
		f.equal(crdt.Fleet, 0, 1, 2)
		f.equal(siteA, 0, 1)
		for _, n := range f.nodes {
			n.want(crdt.Fleet, "u1", "forward", "201", "202")
		}
		f.nodes[0].want(siteA, "msg", "entry", "for ann")
		f.nodes[1].want(siteA, "u2", "name", "Ann")
		if got := f.nodes[2].values(siteA, "u2", "name"); got != nil {
			t.Fatalf("site B sees site A's data: %v", got)
		}
	})
}

func TestNothingIsSaidWhenNothingIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA, siteB)
		defer f.stop()
		for i, n := range f.nodes {
			n.mustPut(crdt.Fleet, fmt.Sprint("u", i), "name", "x")
		}
		f.settled(10 * time.Second)
		time.Sleep(time.Minute)
		before := f.bytes()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := f.bytes() - before; got != 0 {
			t.Fatalf("%d bytes in a day of which nobody had anything to say", got)
		}
		// And with one side cut off, but nothing owed.
		f.cut([]int{0, 1}, []int{2})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := f.bytes() - before; got != 0 {
			t.Fatalf("%d bytes during a cut that nobody needs to notice", got)
		}
	})
}

func TestRedialPausesGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		f.net.Refuse(true)
		f.cut([]int{0}, []int{1})
		f.nodes[0].mustPut(crdt.Fleet, "u", "name", "x")
		var attempts []time.Time
		end := time.Now().Add(3 * time.Hour)
		for time.Now().Before(end) {
			if a := f.nodes[0].e.Status().Peers[0].Attempt; !a.IsZero() && (len(attempts) == 0 || !attempts[len(attempts)-1].Equal(a)) {
				attempts = append(attempts, a)
			}
			time.Sleep(500 * time.Millisecond)
		}
		if len(attempts) < 15 || len(attempts) > 30 {
			t.Fatalf("%d attempts in 3 hours", len(attempts))
		}
		for i := 1; i < len(attempts); i++ {
			pause := attempts[i].Sub(attempts[i-1])
			if pause > 19*time.Minute {
				t.Fatalf("a pause of %v", pause)
			}
		}
		st := f.nodes[0].e.Status().Peers[0]
		if st.Err == nil || st.Failing.IsZero() || st.Owed != 1 {
			t.Fatalf("status of the peer: %+v", st)
		}
		f.net.Heal()
		f.nodes[0].e.NetworkChanged()
		f.settled(2 * time.Second)
	})
}

func TestOneEditIsOneFrameAndItsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		f.nodes[0].mustPut(crdt.Fleet, "u", "name", "x")
		f.settled(5 * time.Second)
		time.Sleep(10 * time.Second)
		_, before := f.links[0].Total()
		_, back := f.links[1].Total()
		f.nodes[0].mustPut(crdt.Fleet, "u", "name", "y")
		f.settled(5 * time.Second)
		time.Sleep(time.Minute)
		_, after := f.links[0].Total()
		_, answered := f.links[1].Total()
		t.Logf("one edit: %d bytes there, %d back", after-before, answered-back)
		if after-before > 300 || answered-back > 100 {
			t.Errorf("one edit cost %d bytes there and %d back", after-before, answered-back)
		}
	})
}

func TestAForgedChangeEndsTheLinkAndIsNotMerged(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	eve := newMember("eve")
	n.gate.learn(&member{name: "eve", id: eve.id, auth: eve.auth, pub: n.pub}) // known, with another key
	c := &crdt.Change{Scope: siteA, Node: eve.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: eve.auth,
		Writes: []crdt.Write{write(1, "u1", "name", "Eve")}}
	if err := crdt.Seal(c, testFleet, eve.sign); err != nil {
		t.Fatal(err)
	}
	_, v, err := n.e.Submit(t.Context(), c.Raw())
	if err != nil || v.Outcome != Refuse {
		t.Fatalf("got %v, %v", v, err)
	}
	n.want(siteA, "u1", "name")
	if _, v, _ := n.e.Submit(t.Context(), []byte("no change at all")); v.Outcome != Refuse {
		t.Fatalf("got %v", v)
	}
}

func TestUnknownGrantIsHeldAndTakenWhenTrustMoves(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	bob := newMember("bob")
	c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
		Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
	if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
		t.Fatal(err)
	}
	id, v, err := n.e.Submit(t.Context(), c.Raw())
	if err != nil || v.Outcome != Hold || id != c.ID() {
		t.Fatalf("got %v, %v", v, err)
	}
	n.want(siteA, "u1", "name")
	n.stop() // it survives
	n.mustStart(m)
	defer n.stop()
	if h := n.e.Held(); len(h) != 1 || h[0].ID != id || h[0].Why == "" {
		t.Fatalf("held: %+v", h)
	}
	n.gate.learn(bob)
	merged := make(chan struct{}, 10)
	defer n.e.Watch(func(s crdt.Scope, _ []crdt.Cell) {
		if s == siteA {
			merged <- struct{}{}
		}
	})()
	n.mustPut(crdt.Trust, "grant", "bob", "yes")
	<-merged
	n.want(siteA, "u1", "name", "Bob")
	if h := n.e.Held(); len(h) != 0 {
		t.Fatalf("still held: %+v", h)
	}
}

func TestHeldChangesAreJudgedAgainOnRequest(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	bob := newMember("bob")
	c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
		Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
	if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
		t.Fatal(err)
	}
	if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Hold {
		t.Fatalf("got %v, %v", v, err)
	}
	merged := make(chan struct{}, 10)
	defer n.e.Watch(func(crdt.Scope, []crdt.Cell) { merged <- struct{}{} })()
	n.gate.learn(bob)
	n.e.TrustChanged()
	<-merged
	n.want(siteA, "u1", "name", "Bob")
	if err := n.e.DropHeld(t.Context(), c.ID(), Dropped{}); err != ErrUnknownChange {
		t.Fatalf("dropping what is not held: %v", err)
	}
}

func TestAChangeFromTheFutureWaitsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := alone(t)
		n.mustStart(m)
		defer n.stop()
		bob := newMember("bob")
		n.gate.learn(bob)
		at := time.Now().Add(time.Hour)
		c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(at.UnixMilli(), 0), Auth: bob.auth,
			Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
		if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
			t.Fatal(err)
		}
		_, v, err := n.e.Submit(t.Context(), c.Raw())
		if err != nil || v.Outcome != Hold {
			t.Fatalf("got %v, %v", v, err)
		}
		if n.e.Now().Millis() > time.Now().Add(time.Minute).UnixMilli() {
			t.Fatal("it dragged our clock along")
		}
		time.Sleep(54 * time.Minute)
		n.want(siteA, "u1", "name")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		n.want(siteA, "u1", "name", "Bob")
	})
}

func TestOldImageDrawsANewActorAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		n := f.nodes[0]
		n.mustPut(siteA, "u1", "name", "one")
		f.settled(5 * time.Second)
		image := f.media[0].Snapshot()
		n.mustPut(siteA, "u1", "name", "two")
		n.mustPut(siteA, "u2", "name", "new")
		f.settled(5 * time.Second)
		actor := n.e.Status().Actor
		n.stop()
		f.links[0].Close()
		f.media[0].Restore(image)
		// The box comes back with the old disk and, before it meets anybody, writes.
		x := f.net.Join(mesh.PeerID(n.id))
		x.Admit([]mesh.Peer{{ID: mesh.PeerID(f.nodes[1].id), Addrs: []string{"mem"}}})
		f.links[0], n.mesh = x, x
		n.mustStart(f.media[0])
		f.settled(30 * time.Second)
		n.mustPut(crdt.Fleet, "say", "hello", "x") // a reason to talk
		f.settled(30 * time.Second)
		n.want(siteA, "u1", "name", "two")
		n.want(siteA, "u2", "name", "new")
		if st := n.e.Status(); st.Actor == actor || len(st.Damage) == 0 {
			t.Fatalf("the actor is still %d: %v", st.Actor, st.Damage)
		}
	})
}

func TestCopiedDiskDrawsANewActor(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	n.mustPut(siteA, "u1", "name", "x")
	actor := n.e.Status().Actor
	n.stop()
	n.cfg.Machine = "another box"
	n.mustStart(m)
	defer n.stop()
	if st := n.e.Status(); st.Actor == actor || len(st.Damage) != 1 {
		t.Fatalf("got %+v", st)
	}
	n.mustPut(siteA, "u1", "name", "y")
	n.want(siteA, "u1", "name", "y")
}

func TestDamagedChangeComesBackFromANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		n := f.nodes[0]
		var rs []Receipt
		for i := range 10 {
			rs = append(rs, n.mustPut(siteA, fmt.Sprint("u", i), "name", "x"))
		}
		f.settled(5 * time.Second)
		if err := disktest.Corrupt(n.store, keyChange(rs[3].ID)); err != nil {
			t.Fatal(err)
		}
		n.stop()
		f.links[0].Close()
		x := f.net.Join(mesh.PeerID(n.id))
		x.Admit([]mesh.Peer{{ID: mesh.PeerID(f.nodes[1].id), Addrs: []string{"mem"}}})
		f.links[0], n.mesh = x, x
		n.mustStart(f.media[0])
		n.want(siteA, "u3", "name")
		if st := n.e.Status(); len(st.Damage) == 0 {
			t.Fatal("damage was not reported")
		}
		n.mustPut(crdt.Fleet, "say", "hello", "x")
		f.settled(30 * time.Second)
		time.Sleep(5 * time.Second)
		n.want(siteA, "u3", "name", "x")
		f.equal(siteA, 0, 1)
	})
}

func TestABlankNodeIsFilledByItsNeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		f.cut([]int{0}, []int{1})
		const users = 2000
		errs := make(chan error, users)
		for i := range users {
			go func() {
				_, err := f.nodes[0].put(siteA, fmt.Sprintf("u%d", i), "name", "somebody")
				errs <- err
			}()
		}
		for range users {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		f.net.Heal()
		f.nodes[0].e.NetworkChanged()
		f.settled(time.Minute)
		f.equal(siteA, 0, 1)
		st := f.nodes[1].e.Status()
		if i := slices.IndexFunc(st.Scopes, func(s ScopeStatus) bool { return s.Scope == siteA }); st.Scopes[i].Changes != users {
			t.Fatalf("got %+v", st.Scopes)
		}
	})
}

func TestTopologyCanChangeAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		f.nodes[0].mustPut(siteA, "u1", "name", "Ann")
		f.settled(5 * time.Second)
		f.nodes[1].want(siteA, "u1", "name")
		for i, n := range f.nodes { // B becomes a stand-in of A
			n.topo.mu.Lock()
			n.topo.holds[siteA] = true
			n.topo.ns = []antientropy.Neighbour{{Peer: f.nodes[1-i].id, Shared: []crdt.Scope{crdt.Trust, siteA, crdt.Fleet}}}
			n.topo.mu.Unlock()
			if err := n.e.TopologyChanged(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		f.settled(10 * time.Second)
		f.nodes[1].want(siteA, "u1", "name", "Ann")
	})
}

func TestABoxThatWakesIn1970TakesANeighboursTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		n, other := f.nodes[0], f.nodes[1]
		first := n.mustPut(siteA, "u1", "name", "x")
		f.settled(5 * time.Second)
		n.stop()
		f.links[0].Close()
		time.Sleep(10 * 24 * time.Hour)
		other.mustPut(siteA, "u2", "name", "while away")
		lag := time.Since(time.Unix(0, 0))
		n.cfg.Now = func() time.Time { return time.Now().Add(-lag) }
		x := f.net.Join(mesh.PeerID(n.id))
		x.Admit([]mesh.Peer{{ID: mesh.PeerID(other.id), Addrs: []string{"mem"}}})
		f.links[0], n.mesh = x, x
		n.mustStart(f.media[0])
		if r := n.mustPut(siteA, "u1", "name", "y"); r.Stamp <= first.Stamp {
			t.Fatalf("stamp %d after %d", r.Stamp, first.Stamp)
		}
		other.e.NetworkChanged()
		f.settled(20 * time.Second)
		n.want(siteA, "u2", "name", "while away")
		time.Sleep(time.Hour)
		other.mustPut(siteA, "u2", "name", "an hour later")
		f.settled(20 * time.Second)
		n.want(siteA, "u2", "name", "an hour later")
		r := n.mustPut(siteA, "u2", "name", "by the box")
		if d := time.Duration(r.Stamp.Millis()-time.Now().UnixMilli()) * time.Millisecond; d.Abs() > time.Minute {
			t.Fatalf("its stamps are %v off", d)
		}
		f.settled(20 * time.Second)
		other.want(siteA, "u2", "name", "by the box")
	})
}
