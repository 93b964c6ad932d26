package state

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A keeper is another site that holds the state of this one, so that it
// survives the shop and can be asked while the shop is away: the stand-in, and
// sites by policy. The site itself names its keepers, when they have all; its
// keys are wrapped for their boxes, so what they could open is on record.

// Keeping is what a site said of another as its keeper.
type Keeping uint8

const (
	Never  Keeping = iota
	Takes          // it is sent all
	Keeps          // it has all, and goes on being told
	Leaves         // another took its place, and it is still to hear of that
	Left           // it has heard, and forgets
)

// The value of a keeper's field.
var keepingValue = map[Keeping]byte{Leaves: 0, Keeps: 1, Left: 2, Takes: 3}

// Keepers lists the sites of which this state's site said that, by id.
func (s *State) Keepers(as Keeping) (out []site.ID) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, k := range s.ix.keepers {
		if k == as {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b site.ID) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// Keeping is what this state's site said of another.
func (s *State) Keeping(id site.ID) Keeping {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.keepers[id]
}

// SetKeeper says of a site what it is now. Nothing is written if that was said
// already.
func (s *State) SetKeeper(ctx context.Context, id site.ID, as Keeping) error {
	value, ok := keepingValue[as]
	if !ok || s.Keeping(id) == as {
		return nil
	}
	ref, _ := byRef("system")
	_, err := s.commit(ctx, Mutation{Scope: s.scope, By: ref,
		Writes: []crdt.Write{{Table: trust.TableKeeper, Record: string(id[:]), Field: trust.KeeperField, Value: []byte{value}}}})
	if err != nil {
		return fmt.Errorf("name site %s as keeper: %w", id, err)
	}
	return nil
}

func (s *State) indexKeeper(r reader) {
	if len(r.rec) != len(site.ID{}) {
		return
	}
	v := r.bytes(trust.KeeperField)
	for as, value := range keepingValue {
		if len(v) == 1 && v[0] == value {
			s.ix.keepers[site.ID([]byte(r.rec))] = as
		}
	}
}

// Said is the change by which this state's site said that of another; zero if it
// says something else.
func (s *State) Said(id site.ID, as Keeping) (change crdt.ID) {
	s.cfg.Engine.View(func(v View) {
		x, ok := (reader{v.Set(s.scope), trust.TableKeeper, string(id[:])}).latest(trust.KeeperField)
		if ok && len(x.Value) == 1 && x.Value[0] == keepingValue[as] {
			change = x.ID
		}
	})
	return change
}

// mandate is the proof that this state's site named a site as keeper.
func (s *State) mandate(id site.ID) (map[uint64][]byte, error) {
	if s.cfg.Raw == nil {
		return nil, fmt.Errorf("prove the mandate of site %s: %w", id, ErrNotFound)
	}
	raw, err := s.cfg.Raw(s.Said(id, Keeps))
	if err == nil && raw == nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("prove the mandate of site %s: %w", id, err)
	}
	return trust.MandateExt(raw)
}

// keyHolders are the members that are given the site's keys: its own, and its
// keepers'.
func (s *State) keyHolders() []*trust.Grant {
	out := s.cfg.Book.Members(s.cfg.Site)
	for _, id := range s.Keepers(Keeps) {
		out = append(out, s.cfg.Book.Members(id)...)
	}
	return out
}
