package state

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A keeper is another site that holds the state of this one, so that it
// survives the shop and can be asked while the shop is away: the stand-in, and
// sites by policy. The site itself names its keepers, when they have all; its
// keys are wrapped for their boxes, so what they could open is on record.

// Keepers lists the sites that are named as keepers of this state's site.
func (s *State) Keepers() (out []site.ID) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, yes := range s.ix.keepers {
		if yes {
			out = append(out, id)
		}
	}
	return out
}

// Keeps says whether a site is named as a keeper, and whether that was ever
// decided.
func (s *State) Keeps(id site.ID) (yes, known bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	yes, known = s.ix.keepers[id]
	return yes, known
}

// SetKeeper names a site as keeper, or no more. Nothing is written if it says so
// already.
func (s *State) SetKeeper(ctx context.Context, id site.ID, yes bool) error {
	if now, known := s.Keeps(id); now == yes && (known || !yes) {
		return nil
	}
	value := []byte{0}
	if yes {
		value[0] = 1
	}
	ref, _ := byRef("system")
	_, err := s.commit(ctx, Mutation{Scope: s.scope, By: ref,
		Writes: []crdt.Write{{Table: trust.TableKeeper, Record: string(id[:]), Field: trust.KeeperField, Value: value}}})
	if err != nil {
		return fmt.Errorf("name site %s as keeper: %w", id, err)
	}
	return nil
}

func (s *State) indexKeeper(r reader) {
	if len(r.rec) != len(site.ID{}) {
		return
	}
	if v := r.bytes(trust.KeeperField); len(v) == 1 {
		s.ix.keepers[site.ID([]byte(r.rec))] = v[0] == 1
	}
}

// mandate is the proof that this state's site named a site as keeper.
func (s *State) mandate(id site.ID) (map[uint64][]byte, error) {
	if s.cfg.Raw == nil {
		return nil, fmt.Errorf("prove the mandate of site %s: %w", id, ErrNotFound)
	}
	var of crdt.ID
	s.cfg.Engine.View(func(v View) {
		if x, ok := (reader{v.Set(s.scope), trust.TableKeeper, string(id[:])}).latest(trust.KeeperField); ok && string(x.Value) == "\x01" {
			of = x.ID
		}
	})
	raw, err := s.cfg.Raw(of)
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
	for _, id := range s.Keepers() {
		out = append(out, s.cfg.Book.Members(id)...)
	}
	return out
}
