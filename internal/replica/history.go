package replica

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// past is a displaced version as it lies on disk.
type past struct {
	Scope  []byte `cbor:"1,keyasint"` // of a site: binary
	Table  uint16 `cbor:"2,keyasint"`
	Record []byte `cbor:"3,keyasint"`
	Field  []byte `cbor:"4,keyasint"`
	Actor  uint64 `cbor:"5,keyasint"`
	Stamp  uint64 `cbor:"6,keyasint"`
	ID     []byte `cbor:"7,keyasint"`
	Node   []byte `cbor:"8,keyasint"`
	Author []byte `cbor:"9,keyasint"`
	Value  []byte `cbor:"10,keyasint"`
	Flags  uint8  `cbor:"11,keyasint"`
	By     []byte `cbor:"12,keyasint"` // the change that displaced it
	At     int64  `cbor:"13,keyasint"` // ms, here
	Saw    *saw   `cbor:"14,keyasint,omitempty"`
	Bare   bool   `cbor:"15,keyasint,omitempty"` // of no interest to a person: only that this node wrote it, see mend
}

// saw is the newest that the writer of a version had seen of its cell: two
// zeros if there was nothing. Entries of before 2026-11-23 lack it.
type saw struct {
	_     struct{} `cbor:",toarray"`
	Actor uint64
	Stamp uint64
}

func newest(c crdt.Context) *saw {
	var out saw
	for _, d := range c {
		if uint64(d.Stamp) > out.Stamp {
			out.Actor, out.Stamp = uint64(d.Actor), uint64(d.Stamp)
		}
	}
	return &out
}

func (p *past) cell() crdt.Cell {
	return crdt.Cell{Scope: crdt.Scope(p.Scope), Table: p.Table, Record: string(p.Record), Field: string(p.Field)}
}

func (p *past) key() []byte {
	return keyDisplaced(p.cell(), crdt.Stamp(p.Stamp), crdt.ID(p.ID))
}

// A Past version was in force or in conflict once, and was covered. It is local
// to this node and kept for Config.HistoryKeep.
type Past struct {
	Cell    crdt.Cell
	Version crdt.Version // of its context only the newest dot
	Vague   bool         // not even that is known
	By      crdt.ID      // the change that displaced it
	At      time.Time    // when this node merged that
}

func (p *past) export() (Past, bool) {
	if p.Bare || len(p.ID) != 32 || len(p.By) != 32 || len(p.Node) != 16 || len(p.Author) != 8 {
		return Past{}, false
	}
	var ctx crdt.Context
	if p.Saw != nil && p.Saw.Stamp != 0 {
		ctx = crdt.Context{{Actor: crdt.ActorID(p.Saw.Actor), Stamp: crdt.Stamp(p.Saw.Stamp)}}
	}
	return Past{Cell: p.cell(), Vague: p.Saw == nil, By: crdt.ID(p.By), At: time.UnixMilli(p.At), Version: crdt.Version{
		Dot: crdt.Dot{Actor: crdt.ActorID(p.Actor), Stamp: crdt.Stamp(p.Stamp)}, ID: crdt.ID(p.ID),
		Node: crdt.NodeID(p.Node), By: crdt.Ref(p.Author), Value: p.Value, Ctx: ctx, Flags: crdt.Flags(p.Flags)}}, true
}

// History calls fn for the displaced versions of a cell, oldest stamp first;
// without a table and a field, for those of the records of that id; with the
// zero Cell, for all.
func (e *Engine) History(cell crdt.Cell, fn func(Past) error) error {
	// What waits for its transaction goes first.
	done := e.enqueue(func(*turn) {})
	select {
	case <-done:
	case <-e.stopped:
	}
	prefix := []byte("h/")
	switch {
	case cell == (crdt.Cell{}):
	case cell.Field == "" && cell.Table == 0:
		prefix = keyRecord(cell)
	default:
		prefix = keyHistory(cell)
	}
	return e.cfg.Disk.View(func(r disk.Reader) error {
		return r.Scan(prefix, func(_, value []byte) error {
			var p past
			if err := cbor.Unmarshal(value, &p); err != nil {
				return fmt.Errorf("read history: %w", err)
			}
			if out, ok := p.export(); ok {
				return fn(out)
			}
			return nil
		})
	})
}

// HistorySince says since when this node remembers every value that was
// overwritten here: its first start, or the newest one that was forgotten,
// whatever is later. Older ones may still be there.
func (e *Engine) HistorySince() time.Time {
	since := e.history.begin()
	if old := e.cfg.Now().Add(-e.cfg.HistoryKeep); old.After(since) {
		since = old
	}
	return since
}

// memory is how much history there is. What mu does not guard is Run's own.
type memory struct {
	mu    sync.Mutex
	since time.Time

	bytes  int       // of keys and values on disk, as last counted, and what came since
	next   time.Time // when to look again
	shrink bool      // it is being brought below three quarters of what may be
}

// recall reads since when there is a history; a new one begins now.
func (e *Engine) recall(r disk.Reader, now time.Time) {
	var ms int64
	b, err := r.Get(keyMemory)
	if err != nil || cbor.Unmarshal(b, &ms) != nil {
		e.memorize(now)
		e.chores.since = true
		return
	}
	e.memorize(time.UnixMilli(ms))
}

func (m *memory) begin() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.since
}

func (e *Engine) memorize(at time.Time) {
	e.history.mu.Lock()
	e.history.since = at
	e.history.mu.Unlock()
}

// forgetHistory looks once a day whether history is older than it is kept, and
// whenever it is more than there may be; again with the next care if there is
// more than one transaction of it.
func (e *Engine) forgetHistory() {
	now := e.cfg.Now()
	if e.readOnly != nil || now.Before(e.history.next) && e.history.bytes <= e.cfg.HistoryBytes {
		return
	}
	e.history.next = now.Add(24 * time.Hour)
	more, err := e.expireHistory(now)
	switch {
	case err != nil:
		e.log.Warn("Old history was not removed", "err", err)
	case more:
		e.history.next = now
	}
}

// forgetTurns is how many transactions of history go at a time.
const forgetTurns = 16

// expireHistory removes what is older than it is kept, and the oldest of what
// is too much, a part at a time.
func (e *Engine) expireHistory(now time.Time) (more bool, err error) {
	type item struct {
		at   int64
		size int
	}
	var all []item
	total := 0
	each := func(fn func(key []byte, at int64, size int)) error {
		return e.cfg.Disk.View(func(r disk.Reader) error {
			return r.Scan([]byte("h/"), func(key, value []byte) error {
				var p past
				if cbor.Unmarshal(value, &p) != nil {
					p.At = 0 // of no use to anybody
				}
				fn(key, p.At, len(key)+len(value))
				return nil
			})
		})
	}
	if err := each(func(_ []byte, at int64, size int) { all, total = append(all, item{at, size}), total+size }); err != nil {
		return false, err
	}
	e.history.bytes = total
	limit := now.Add(-e.cfg.HistoryKeep).UnixMilli() // what is older goes
	if e.history.shrink = total > e.cfg.HistoryBytes || e.history.shrink && total > e.cfg.HistoryBytes*3/4; e.history.shrink {
		slices.SortFunc(all, func(a, b item) int { return cmp.Compare(a.at, b.at) })
		for i := 0; total > e.cfg.HistoryBytes*3/4 && i < len(all); i++ { // not again at once
			total -= all[i].size
			limit = max(limit, all[i].at+1)
		}
	}
	bs := []*disk.Batch{new(disk.Batch)}
	gone, newest := 0, int64(0)
	err = each(func(key []byte, at int64, size int) {
		b := bs[len(bs)-1]
		if b.Len() >= turnOps && len(bs) < forgetTurns {
			b = new(disk.Batch)
			bs = append(bs, b)
		}
		switch {
		case at >= limit:
		case b.Len() >= turnOps:
			more = true
		default:
			b.Delete(bytes.Clone(key))
			gone, newest = gone+size, max(newest, at)
		}
	})
	if err != nil || bs[0].Len() == 0 {
		return false, err
	}
	since := e.history.begin()
	if at := time.UnixMilli(max(newest, limit-1)); at.After(since) {
		since = at
		bs[0].Put(keyMemory, encode(at.UnixMilli()))
	}
	for i, b := range bs {
		if err := e.cfg.Disk.Commit(b); err != nil {
			return false, err
		}
		if i == 0 {
			e.memorize(since)
		}
	}
	e.history.bytes -= gone
	return more, nil
}

// erases says whether a change erases its record: what it said goes from the
// history, too. What trust once said stays, old signatures rest on it.
func erases(c *crdt.Change) bool {
	return c.Writes[0].Flags&crdt.Final != 0 && c.Scope != crdt.Trust
}

// eraseHistory removes from the history what a record said.
func (e *Engine) eraseHistory(r disk.Reader, c crdt.Cell) error {
	e.chores.history = slices.DeleteFunc(e.chores.history, func(p past) bool {
		return crdt.Scope(p.Scope) == c.Scope && p.Table == c.Table && string(p.Record) == c.Record
	})
	return r.Scan(keyRecord(c), func(key, value []byte) error {
		var p past
		if cbor.Unmarshal(value, &p) == nil && p.Table != c.Table {
			return nil // another record of that id
		}
		e.chores.dead = append(e.chores.dead, bytes.Clone(key))
		e.history.bytes -= len(key) + len(value)
		return nil
	})
}
