package state

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// openKeys opens the wraps that are for this node and chooses the newest epoch
// among those for sealing. s.mu is held by the caller or not: it is not needed.
func (s *State) openKeys(v View) {
	set := v.Set(s.scope)
	var newest crdt.Stamp
	for _, rec := range set.Records(TableKey) {
		if len(rec) != len(trust.Epoch{}) {
			continue
		}
		e := trust.Epoch([]byte(rec))
		if _, ok := s.keys.Key(e); !ok {
			wraps := reader{set, TableWrap, rec}.versions(string(s.node[:]))
			for _, w := range wraps {
				k, err := s.cfg.Identity.Unwrap(s.cfg.Site, w.Value)
				if err == nil && k.Epoch() == e {
					s.keys.Add(k)
					ok = true
					break
				}
			}
			if !ok {
				if len(wraps) > 0 {
					s.cfg.Log.Warn("A wrapped key of this site does not open here", "epoch", e)
				}
				continue
			}
		}
		if made, ok := (reader{set, TableKey, rec}).latest(keyMade); ok && made.Stamp > newest {
			newest = made.Stamp
			s.keys.Use(e)
		}
	}
}

// DrawKey makes a new key of the site and wraps it for its members: once when
// the site begins (its first node), and again when one of them was lost.
func (s *State) DrawKey(ctx context.Context, by string) error {
	k, err := trust.NewSiteKey(lockedRandom{s})
	if err != nil {
		return err
	}
	e := k.Epoch()
	ref, _ := byRef(by)
	m := Mutation{Scope: s.scope, By: ref, Writes: []crdt.Write{{Table: TableKey, Record: string(e[:]), Field: keyMade, Value: []byte{1}}}}
	for _, g := range s.keyHolders() {
		w, err := s.wrap(k, g)
		if err != nil {
			return err
		}
		if m.Writes = append(m.Writes, w); len(m.Writes) == crdt.MaxWrites {
			break // the others are wrapped for by WrapKeys
		}
	}
	if _, err := s.commit(ctx, m); err != nil {
		return fmt.Errorf("write the key of site %s: %w", s.cfg.Site, err)
	}
	if _, ok := s.keys.Key(e); !ok {
		return fmt.Errorf("write the key of site %s: %w: this node is not among its members", s.cfg.Site, ErrNoKey)
	}
	return nil
}

func (s *State) wrap(k trust.SiteKey, g *trust.Grant) (crdt.Write, error) {
	box, err := k.Wrap(s.cfg.Site, g.Seal, lockedRandom{s})
	if err != nil {
		return crdt.Write{}, err
	}
	e, n := k.Epoch(), g.Node()
	return crdt.Write{Table: TableWrap, Record: string(e[:]), Field: string(n[:]), Value: box}, nil
}

// WrapKeys gives every member of the site, and of its keepers, every epoch that this node can open
// and that member cannot yet: a newcomer of the pair can then serve its phones.
func (s *State) WrapKeys(ctx context.Context) (n int, err error) {
	ref, _ := byRef("system")
	members := s.keyHolders()
	for _, e := range s.keys.Epochs() {
		k, _ := s.keys.Key(e)
		m := Mutation{Scope: s.scope, By: ref}
		var missing []*trust.Grant
		s.cfg.Engine.View(func(v View) {
			r := reader{v.Set(s.scope), TableWrap, string(e[:])}
			for _, g := range members {
				if id := g.Node(); len(r.versions(string(id[:]))) == 0 {
					missing = append(missing, g)
				}
			}
		})
		for _, g := range missing[:min(len(missing), crdt.MaxWrites)] {
			w, err := s.wrap(k, g)
			if err != nil {
				return n, err
			}
			m.Writes = append(m.Writes, w)
		}
		if len(m.Writes) == 0 {
			continue
		}
		if _, err := s.commit(ctx, m); err != nil {
			return n, fmt.Errorf("wrap a key of site %s for %d nodes: %w", s.cfg.Site, len(m.Writes), err)
		}
		n += len(m.Writes)
	}
	return n, nil
}

// HasKey says whether this node can seal and open the site's secrets.
func (s *State) HasKey() bool { _, ok := s.keys.Current(); return ok }

// HeldBy lists the epochs that a node could ever open: what has to be rotated
// when it is lost.
func (s *State) HeldBy(n site.NodeID) (out []trust.Epoch) {
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for _, rec := range set.Records(TableWrap) {
			if len(rec) == len(trust.Epoch{}) && len(reader{set, TableWrap, rec}.versions(string(n[:]))) > 0 {
				out = append(out, trust.Epoch([]byte(rec)))
			}
		}
	})
	return out
}
