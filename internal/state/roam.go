package state

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// TableRoam holds roam claims, in the fleet scope: at which other site a user's
// telephones were seen last (state.md §7). Only nodes of the home site and
// of its keepers write it, so that no box can attract the calls of others. Time removes nothing: a
// claim stands until another follows.
const TableRoam = trust.TableRoam // record: trust.SiteRecord(home, user)

const roamAt = "\x01" // the site's id; empty: at home again

// Roaming returns the site that a user's telephones visit.
func (s *State) Roaming(user site.RecordID) (at site.ID, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok = s.ix.roaming[user]
	return at, ok
}

// Roam claims that a telephone of one of our users has registered at another
// site, or at home again (the zero site). A claim that says what is known is
// not written. A keeper claims with its mandate.
func (s *State) Roam(ctx context.Context, user site.RecordID, at site.ID) error {
	if u, ok := s.Settings(user); !ok || u.Deleted {
		return fmt.Errorf("claim that user %s roams: %w: it is no user of this site", user, ErrNotFound)
	}
	if now, _ := s.Roaming(user); now == at {
		return nil
	}
	value := at[:]
	if at.IsZero() {
		value = []byte{}
	}
	m := Mutation{Scope: crdt.Fleet, By: systemRef(),
		Writes: []crdt.Write{{Table: TableRoam, Record: trust.SiteRecord(s.cfg.Site, user), Field: roamAt, Value: value}}}
	if s.cfg.Keeper {
		g, err := s.cfg.Book.Member(s.node)
		if err == nil {
			m.Ext, err = s.mandate(g.Site)
		}
		if err != nil {
			return fmt.Errorf("claim that user %s roams: %w", user, err)
		}
	}
	if _, err := s.commit(ctx, m); err != nil {
		return fmt.Errorf("claim that user %s roams: %w", user, err)
	}
	return nil
}

func systemRef() crdt.Ref {
	r, _ := byRef("roaming")
	return r
}

func (s *State) indexRoam(r reader) {
	if len(r.rec) != trust.PrefixSize+len(site.RecordID{}) {
		return
	}
	user := site.RecordID([]byte(r.rec[trust.PrefixSize:]))
	if at := r.bytes(roamAt); len(at) == len(site.ID{}) {
		s.ix.roaming[user] = site.ID(at)
		return
	}
	delete(s.ix.roaming, user)
}
