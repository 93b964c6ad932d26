package main

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strconv"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// Directed plays in which a box means harm, or is harmed by a change.

// forge seals a change of a box beside its engine: what a taken-over box can do.
func (b *box) forge(record, value string, after time.Duration) *crdt.Change {
	w := b.w
	c := &crdt.Change{Scope: crdt.Fleet, Node: b.id, Actor: 0xe71, Auth: b.auth,
		Stamp:  crdt.MakeStamp(beginning.Add(w.now).Add(after).UnixMilli(), 0),
		Writes: []crdt.Write{{Table: 1, Record: record, Field: "f", Value: []byte(value)}}}
	if err := crdt.Seal(c, w.fleet, func(m []byte) []byte { return ed25519.Sign(b.key, m) }); err != nil {
		panic(err) // the change is well formed
	}
	return c
}

// take gives a change to a box by hand.
func (b *box) take(c *crdt.Change) {
	if _, err := b.st.Take(c.Raw()); err != nil {
		b.w.truth.fault("%s: %v", b, err)
	}
	b.after()
}

// cancelling are changes of a box whose ids, added up without carry, are nothing;
// nil if there are none among its first 256. Gauss finds them.
func (b *box) cancelling() (out []*crdt.Change) {
	type row struct {
		sum, from crdt.ID // from: of which changes, a bit each
	}
	var rows []row // by their highest bits, the highest first
	var all []*crdt.Change
	add := func(a, b crdt.ID) (sum crdt.ID) {
		for i := range sum {
			sum[i] = a[i] ^ b[i]
		}
		return sum
	}
	for n := range 8 * len(crdt.ID{}) {
		b.w.writes++
		c := b.forge(fmt.Sprint("evil ", n), strconv.Itoa(b.w.writes)+filler, time.Duration(n)*time.Millisecond-time.Minute)
		all = append(all, c)
		r := row{sum: c.ID()}
		r.from[n/8] = 1 << (n % 8)
		for _, o := range rows {
			if s := add(r.sum, o.sum); bytes.Compare(s[:], r.sum[:]) < 0 {
				r = row{s, add(r.from, o.from)}
			}
		}
		if r.sum == (crdt.ID{}) {
			for i, c := range all {
				if r.from[i/8]>>(i%8)&1 == 1 {
					out = append(out, c)
				}
			}
			return out
		}
		at, _ := slices.BinarySearchFunc(rows, r, func(a, b row) int { return bytes.Compare(b.sum[:], a.sum[:]) })
		rows = slices.Insert(rows, at, r)
	}
	return nil // 256 numbers may be independent: less than one fleet in three
}

// cancelled: a member signs changes whose ids cancel each other, and hands them
// to one box. Who compares sums of ids would find nothing to repair.
func cancelled(w *world) bool {
	if len(w.boxes) < 3 {
		return false
	}
	a, evil := w.boxes[0], w.boxes[len(w.boxes)-1]
	w.run(w.now + 10*minute) // all have said all
	w.cut(func(b *box) int { return b.index })
	w.run(w.now + 2*minute)
	all := evil.cancelling()
	for _, c := range all {
		n, _ := strconv.Atoi(string(bytes.TrimSuffix(c.Writes[0].Value, []byte(filler))))
		w.truth.writes[n] = &written{cell: c.Cell(0), acked: true, by: evil.index}
		a.take(c)
	}
	return all != nil
}

// poisoned: one box's program fails on a change. It holds that one, takes all
// others, and hands on what it holds no less than before.
func poisoned(w *world) bool {
	if len(w.boxes) < 3 {
		return false
	}
	sick := w.boxes[w.rng.IntN(len(w.boxes))]
	from := w.boxes[(sick.index+1)%len(w.boxes)]
	sick.fails = []byte("a change that " + sick.String())
	sick.off(true)
	if err := sick.start(); err != nil {
		w.truth.fault("%v", err)
		return true
	}
	w.run(w.now + 5*minute)
	w.put(from, crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "poison", Field: "f"}, string(sick.fails)+" does not stand")
	for _, b := range w.boxes {
		_ = b.write(anyCell(w), nil)
		w.run(w.now + minute)
	}
	sick.off(true) // also over a restart
	if err := sick.start(); err != nil {
		w.truth.fault("it does not start with what it holds: %v", err)
		return true
	}
	_ = sick.write(anyCell(w), nil)
	w.run(w.now + 20*minute)
	if st := sick.st.Status(); st.Held != 1 || st.ReadOnly != nil {
		w.truth.fault("%s holds %d changes, and takes no writes: %v", sick, st.Held, st.ReadOnly)
	}
	want := sick.visible(anyCell(w))
	for _, b := range w.boxes {
		if got := b.visible(anyCell(w)); !slices.Equal(got, want) {
			w.truth.fault("%s shows %v, the one that holds a change %v", b, got, want)
		}
	}
	sick.fails = nil // a later program
	sick.off(false)
	if err := sick.start(); err != nil {
		w.truth.fault("%v", err)
	}
	return true
}
