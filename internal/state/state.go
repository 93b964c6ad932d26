// Package state is the replicated state in product words: sites, users and
// their phones, mailboxes, invites, keys of a site, merges. It knows the
// schema, the policy of each field and who wins; it keeps indexes in memory so
// that a look-up for a call costs one map access; it stores nothing itself.
//
// Law: a read never waits for another node; a write is one signed change of
// the scope that owns the fact, and what other scopes repeat of it (the
// directory) is derived again from the record whenever the two differ. No value
// a person wrote is dropped by a merge unseen: what is not in force is in
// Merges (state.md §4).
package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Sentinels a caller branches on.
var (
	ErrNotFound  = errors.New("not found")
	ErrInvalid   = errors.New("not valid")
	ErrTaken     = errors.New("already in use")
	ErrOtherSite = errors.New("it belongs to another site")
	ErrToken     = errors.New("the ETag is not one of this record")
	ErrState     = errors.New("not in that state")
	ErrNoKey     = errors.New("this node cannot seal secrets yet")
)

// A View is the merged state at one moment; see Engine.
type View interface {
	// Set returns the live changes of a scope, empty if it is not held here.
	Set(scope crdt.Scope) *crdt.Set
}

// A Mutation becomes one change: all of it, or nothing.
type Mutation struct {
	Scope        crdt.Scope
	Writes       []crdt.Write
	By           crdt.Ref
	Token        map[crdt.Cell]crdt.Context // what the person had seen; nil: what is here
	Precondition func(View) error           // asked in the writer's turn
	Ext          map[uint64][]byte          // signed extras, as raw CBOR
	Auth         crdt.Ref                   // what it is written under, if not the node's own grant
}

// An Engine is the one writer, as this package needs it.
type Engine interface {
	// Commit returns when the change is on this node's disk and merged.
	Commit(ctx context.Context, m Mutation) (crdt.Stamp, error)
	// View calls fn with nothing merging meanwhile; fn is quick.
	View(fn func(View))
	// Watch tells of cells that may read differently, with no lock held.
	Watch(fn func(scope crdt.Scope, cells []crdt.Cell)) (cancel func())
}

// Past is a version that was covered, from this node's local history.
type Past struct {
	Cell    crdt.Cell
	Version crdt.Version // of its context only the newest dot
	Vague   bool         // not even that is known
	By      crdt.ID      // the change that covered it
	At      time.Time
}

// Config is what a State needs. Synced and History may be nil; the others are required.
type Config struct {
	Engine   Engine
	Book     *trust.Book
	Identity *trust.Identity
	Site     site.ID // whose state it is: this node's own site, or one that it keeps
	Now      func() time.Time
	Random   io.Reader // may be used by one goroutine at a time
	Log      *slog.Logger
	Synced   func() bool                                     // whether somebody sets the clock: without, nothing is purged for its age. Nil: always
	History  func(cell crdt.Cell, fn func(Past) error) error // zero cell: all; without table and field: of the record
	// HistorySince says since when History has everything that was overwritten here. Nil: since ever.
	HistorySince func() time.Time
	// Taken says whether all others that write this site's state have taken a
	// change of it. Nil: there are none.
	Taken func(crdt.ID) bool
	Raw   func(crdt.ID) ([]byte, error) // a live change as it was signed. Nil: none is known

	// Keeper: Site is another's, which this node keeps. Of the fleet's directory
	// only what is Site's is indexed, and nothing is put in order: its own nodes
	// do that.
	Keeper bool

	plant func(table uint16, rec string) // tests make the program fail
}

// A State reads and writes the fleet's state at one node.
type State struct {
	cfg   Config
	node  site.NodeID
	scope crdt.Scope // of the own site

	keys   *trust.Keyring
	cancel func()
	stir   chan struct{} // something merged that may want care: see dirty

	dmu   sync.Mutex // guards what a merge touched since the last care
	dirty map[site.RecordID]bool

	write sync.Mutex // one administrative write at a time: numbers are checked, then taken
	rmu   sync.Mutex // guards cfg.Random

	fill   sync.Mutex // one indexing at a time; taken before mu, never with the engine's lock held
	mu     sync.RWMutex
	ix     index
	unread map[string]bool // records this program failed on, in words; guarded by mu

	subs []func(mailbox site.RecordID) // guarded by mu
}

// Open reads the state once and follows it until Close.
func Open(cfg Config) (*State, error) {
	if cfg.Engine == nil || cfg.Book == nil || cfg.Identity == nil || cfg.Now == nil || cfg.Random == nil || cfg.Log == nil || cfg.Site.IsZero() {
		return nil, fmt.Errorf("open the state: %w: a part of its Config is missing", ErrInvalid)
	}
	s := &State{cfg: cfg, node: cfg.Identity.Node(), scope: crdt.SiteScope(cfg.Site), keys: trust.NewKeyring(),
		stir: make(chan struct{}, 1), dirty: map[site.RecordID]bool{}, ix: newIndex()}
	s.cancel = cfg.Engine.Watch(s.merged)
	s.fill.Lock()
	s.cfg.Engine.View(func(v View) { s.load(v) })
	s.fill.Unlock()
	return s, nil
}

// Close stops following.
func (s *State) Close() { s.cancel() }

// Keys are the keys of the own site that this node can open.
func (s *State) Keys() *trust.Keyring { return s.keys }

// commit writes, and brings the indexes up to date before it returns.
func (s *State) commit(ctx context.Context, m Mutation) (crdt.Stamp, error) {
	stamp, err := s.cfg.Engine.Commit(ctx, m)
	if err != nil {
		return 0, err
	}
	cells := make([]crdt.Cell, len(m.Writes))
	for i, w := range m.Writes {
		cells[i] = crdt.Cell{Scope: m.Scope, Table: w.Table, Record: w.Record, Field: w.Field}
	}
	s.refresh(m.Scope, cells)
	return stamp, nil
}

// merged is the engine's news.
func (s *State) merged(scope crdt.Scope, cells []crdt.Cell) {
	s.refresh(scope, cells)
	stir := scope == crdt.Trust
	s.dmu.Lock()
	for _, c := range cells {
		switch {
		case scope != s.scope:
		case (c.Table == TableUser || c.Table == TableGroup || c.Table == TableMenu) && len(c.Record) == len(site.RecordID{}):
			s.dirty[site.RecordID([]byte(c.Record))] = true
			stir = true
		case c.Table == TableWrap || c.Table == TableKey || c.Table == trust.TableKeeper:
			stir = true
		}
	}
	s.dmu.Unlock()
	if stir {
		s.stirUp()
	}
}

// newID draws a record's id.
func (s *State) newID() (id site.RecordID, err error) {
	err = s.draw(id[:])
	return id, err
}

func (s *State) draw(b []byte) error {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	if _, err := io.ReadFull(s.cfg.Random, b); err != nil {
		return fmt.Errorf("draw random bytes: %w", err)
	}
	return nil
}

// lockedRandom lets libraries read cfg.Random.
type lockedRandom struct{ s *State }

func (r lockedRandom) Read(b []byte) (int, error) {
	if err := r.s.draw(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// By names who asks for a change: a person, a token, a system rule. Names of up
// to 8 plain characters are their own name; longer ones are hashed, and the
// name is written beside the change.
func byRef(name string) (r crdt.Ref, long bool) {
	plain := len(name) <= len(r)
	for i := range len(name) {
		plain = plain && name[i] > ' ' && name[i] < 0x7f
	}
	if plain {
		copy(r[:], name)
		return r, false
	}
	r = trust.RefOf([]byte("ccnode person 1" + name))
	r[0] |= 0x80
	return r, true
}

// person returns the writes that a change by that name needs, if any.
func (s *State) person(v View, name string) (crdt.Ref, []crdt.Write) {
	r, long := byRef(name)
	if !long || len(name) > 200 || string(reader{v.Set(s.scope), TablePerson, string(r[:])}.bytes(personName)) == name {
		return r, nil
	}
	return r, []crdt.Write{{Table: TablePerson, Record: string(r[:]), Field: personName, Value: []byte(name)}}
}

// personOf is the name behind a By.
func (s *State) personOf(v View, r crdt.Ref) string {
	if a := s.cfg.Book.AdminRef(r); a != nil {
		return a.Name
	}
	if r[0]&0x80 == 0 {
		n := 0
		for n < len(r) && r[n] != 0 {
			n++
		}
		return string(r[:n])
	}
	if name := (reader{v.Set(s.scope), TablePerson, string(r[:])}).text(personName); name != "" {
		return name
	}
	return r.String()
}

// Fingerprints of the scopes held here: equal on two nodes when they hold the
// same.
func (s *State) Fingerprints() (out map[crdt.Scope]crdt.Fingerprint) {
	out = map[crdt.Scope]crdt.Fingerprint{}
	s.cfg.Engine.View(func(v View) {
		for _, scope := range []crdt.Scope{crdt.Trust, crdt.Fleet, s.scope} {
			out[scope] = v.Set(scope).Fingerprint()
		}
	})
	return out
}
