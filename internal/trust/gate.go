package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/internal/site"
)

// A Verdict on a change whose shape is sound (state.md §5 d).
type Verdict uint8

const (
	Accept Verdict = iota
	Hold           // trust may still arrive: keep it, try again when the book moved
	Refuse         // its relay should have seen it: drop it, and the link
)

// Key returns the key that must have signed c: of the grant it was written
// under. A change that carries that very grant brings its own key.
func (b *Book) Key(c *crdt.Change) (ed25519.PublicKey, bool) {
	g, ok := b.auth(c)
	if !ok {
		return nil, false
	}
	return g.Key, true
}

// auth finds the grant a change was written under.
func (b *Book) auth(c *crdt.Change) (*Grant, bool) {
	if g, ok := b.Grant(c.Auth); ok {
		return g, g.Node() == site.NodeID(c.Node)
	}
	if c.Scope != crdt.Trust {
		return b.sessionGrant(c)
	}
	b.learnGrants(c)
	g, ok := b.Grant(c.Auth)
	return g, ok && g.Node() == site.NodeID(c.Node)
}

// learnGrants takes the grants in a change. They vouch for themselves, so it
// does not matter who brings them.
func (b *Book) learnGrants(c *crdt.Change) {
	for i := range c.Writes {
		if w := &c.Writes[i]; w.Table == TableGrant {
			if g, err := DecodeGrant(w.Value); err == nil {
				_ = b.Add(g) // an unknown issuer: the change is held, and comes again
			}
		}
	}
}

// Admit judges a change whose signature fits Key. What an accepted change says
// about trust is in the book when Admit returns.
func (b *Book) Admit(c *crdt.Change) (Verdict, error) {
	g, ok := b.auth(c)
	if !ok {
		return Hold, fmt.Errorf("change %s of node %s: %w", c.ID(), site.NodeID(c.Node), ErrUnknown)
	}
	for i := range c.Writes {
		w := &c.Writes[i]
		err := error(nil)
		if c.Scope == crdt.Trust {
			err = b.mayTrust(g, c, w)
		} else {
			err = b.may(g, c, w)
		}
		switch {
		case errors.Is(err, ErrUnknown) || errors.Is(err, errNoRule):
			return Hold, fmt.Errorf("change %s: %w", c.ID(), err)
		case err != nil:
			return Refuse, fmt.Errorf("change %s: %w", c.ID(), err)
		}
	}
	b.Learn(c)
	return Accept, nil
}

var errNoRule = errors.New("this version has no rule for it; update this node")

// mayTrust judges a write in the trust scope: each table vouches for itself.
func (b *Book) mayTrust(g *Grant, c *crdt.Change, w *crdt.Write) error {
	if w.Flags&crdt.Final != 0 && w.Table != TableRevocation {
		return fmt.Errorf("%w: table %d of trust has no finals", ErrForbidden, w.Table)
	}
	switch w.Table {
	case TableFounding:
		if id := b.fleet; w.Record != string(id[:16]) || string(w.Value) != string(b.founding.Encode()) {
			return fmt.Errorf("%w: not this fleet's founding record", ErrForbidden)
		}
	case TableGrant:
		have, err := DecodeGrant(w.Value)
		if err != nil {
			return err
		}
		if id := have.ID(); w.Record != string(id[:]) {
			return fmt.Errorf("%w: grant %s under another name", ErrForbidden, id)
		}
		return b.Add(have)
	case TableRevocation:
		r, err := decodeRevocation(w)
		if err != nil {
			return err
		}
		return b.mayRevoke(g, r.Node)
	case TableProof:
		_, err := b.checkProof(w)
		return err
	case TableAdmin:
		return b.mayAdmin(g, w)
	default:
		return fmt.Errorf("%w: table %d of trust", errNoRule, w.Table)
	}
	return nil
}

// Vouches says whether a write of the trust scope vouches for itself: it means the
// same whoever says it and when.
func Vouches(w crdt.Write) bool {
	return w.Table == TableFounding || w.Table == TableGrant || w.Table == TableProof
}

// mayRevoke says whether the holder of g may end node n. A node's site is that
// of its grants, and its grants vouch for themselves.
func (b *Book) mayRevoke(g *Grant, n site.NodeID) error {
	if g.Rights&AdmitFleet != 0 {
		return nil
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	gs := b.nodes[n]
	switch {
	case g.Rights&AdmitSite == 0:
		return fmt.Errorf("%w: node %s may not revoke", ErrForbidden, g.Node())
	case len(gs) == 0:
		return fmt.Errorf("revoke node %s: %w", n, ErrUnknown)
	}
	for _, x := range gs {
		if x.Site == g.Site {
			return nil
		}
	}
	return fmt.Errorf("%w: no grant of node %s for site %s, the only one that node %s may revoke in", ErrUnknown, n, g.Site, g.Node())
}

// MayRevoke says whether n, as a member, may revoke another.
func (b *Book) MayRevoke(n, other site.NodeID) error {
	g, err := b.Member(n)
	if err != nil {
		return err
	}
	return b.mayRevoke(g, other)
}

// Learn takes what an accepted change of the trust scope says.
func (b *Book) Learn(c *crdt.Change) {
	if c.Scope != crdt.Trust {
		return
	}
	b.learnGrants(c)
	for i := range c.Writes {
		w := &c.Writes[i]
		b.learn(w, c.Stamp, c.ID())
	}
}

func (b *Book) learn(w *crdt.Write, stamp crdt.Stamp, id crdt.ID) {
	switch w.Table {
	case TableRevocation:
		if r, err := decodeRevocation(w); err == nil {
			r.Stamp, r.id = stamp, id
			b.revoke(r)
		}
	case TableAdmin:
		b.learnAdmin(w, stamp)
	case TableProof:
		if n, err := b.checkProof(w); err == nil && !mutant.Is(mutant.Unfenced) {
			b.mu.Lock()
			b.cheats[n], b.all = true, nil
			b.mu.Unlock()
		}
	}
}

// Sync reads the live trust scope: once when a node starts, and after merges. It
// reports whether the book moved; held changes are then worth another try.
func (b *Book) Sync(trust *crdt.Set) (moved bool) {
	return b.read(trust, func(table uint16) []string { return trust.Records(table) })
}

// Moved is Sync after a merge that touched these cells: it does not look at every
// grant of a large fleet again.
func (b *Book) Moved(trust *crdt.Set, cells []crdt.Cell) (moved bool) {
	b.mu.RLock()
	more := b.looked != len(b.grants)
	touched := map[uint16]map[string]bool{TableGrant: maps.Clone(b.waiting)}
	b.mu.RUnlock()
	for _, c := range cells {
		if touched[c.Table] == nil {
			touched[c.Table] = map[string]bool{}
		}
		touched[c.Table][c.Record] = true
	}
	return b.read(trust, func(table uint16) []string {
		if more && table != TableGrant { // what these say can depend on grants that came now
			return trust.Records(table)
		}
		return slices.Sorted(maps.Keys(touched[table]))
	})
}

// read looks at the records of each table that of names.
func (b *Book) read(trust *crdt.Set, of func(table uint16) []string) (moved bool) {
	before := b.size()
	each := func(table uint16, fn func(rec string)) {
		for _, rec := range of(table) {
			b.spare(table, rec, func() { fn(rec) })
		}
	}
	var waiting []*Grant
	each(TableGrant, func(rec string) {
		if len(rec) == len(crdt.Ref{}) {
			if _, known := b.Grant(crdt.Ref([]byte(rec))); known {
				return
			}
		}
		for _, v := range trust.Versions(crdt.Cell{Table: TableGrant, Record: rec, Field: DropField}) {
			if g, err := DecodeGrant(v.Value); err == nil {
				waiting = append(waiting, g)
			}
		}
	})
	for n := -1; n != len(waiting); { // each pass takes those whose issuer came in the last
		n = len(waiting)
		waiting = slices.DeleteFunc(waiting, func(g *Grant) bool { return !errors.Is(b.Add(g), ErrUnknown) })
	}
	b.mu.Lock()
	b.waiting, b.looked = map[string]bool{}, len(b.grants)
	for _, g := range waiting {
		id := g.ID()
		b.waiting[string(id[:])] = true
	}
	b.mu.Unlock()
	each(TableRevocation, func(rec string) {
		if v, ok := trust.Final(TableRevocation, rec); ok {
			b.learn(&crdt.Write{Table: TableRevocation, Record: rec, Value: v.Value, Flags: v.Flags}, v.Stamp, v.ID)
		}
	})
	each(TableProof, func(rec string) {
		for _, v := range trust.Versions(crdt.Cell{Table: TableProof, Record: rec, Field: DropField}) {
			b.learn(&crdt.Write{Table: TableProof, Record: rec, Field: DropField, Value: v.Value}, v.Stamp, v.ID)
		}
	})
	each(TableAdmin, func(rec string) {
		for _, f := range []string{AdminRecord, AdminRevoked} {
			for _, v := range trust.Versions(crdt.Cell{Table: TableAdmin, Record: rec, Field: f}) {
				b.learn(&crdt.Write{Table: TableAdmin, Record: rec, Field: f, Value: v.Value}, v.Stamp, v.ID)
			}
		}
	})
	return b.size() != before
}

// spare runs fn for a record, and leaves the record out if the program fails on it:
// one record must not keep a box from starting.
func (b *Book) spare(table uint16, rec string, fn func()) {
	defer func() {
		if p := recover(); p != nil && b.Failed != nil {
			b.Failed(table, rec, p)
		}
	}()
	fn()
}

func (b *Book) size() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.grants) + len(b.revoked) + len(b.cheats) + len(b.admins) + len(b.adminsOut)
}

// revoke keeps the least of several finals, as the state does.
func (b *Book) revoke(r *Revocation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := b.revoked[r.Node]; have == nil || r.Stamp < have.Stamp || (r.Stamp == have.Stamp && string(r.id[:]) < string(have.id[:])) {
		b.revoked[r.Node], b.all = r, nil
	}
}
