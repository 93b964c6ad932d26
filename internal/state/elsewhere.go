package state

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// An Author is an administrator whose session lets a box write other sites'
// records (trust.Session).
type Author struct {
	Auth, By crdt.Ref
	Ext      map[uint64][]byte
}

// SetElsewhere edits a user of another site from here, while no box of that site
// can be asked to: the change waits in the outbox, and its home takes it for the
// administrator's. etag says what was seen of the record at last; "" is nothing.
// waiting are changes of this box that are still on their way: the new one has
// seen them. What home wrote and nobody here has seen is not overwritten but a
// merge. A box that keeps the site writes with that State. Secrets cannot be set
// so: they are closed with the site's own key.
func (s *State) SetElsewhere(ctx context.Context, a Author, id site.RecordID, etag string, waiting []*crdt.Change, p Patch) error {
	fail := func(err error) error { return fmt.Errorf("change user %s of another site: %w", id, err) }
	s.write.Lock()
	defer s.write.Unlock()
	u, err := s.User(id)
	switch {
	case err != nil:
		return fail(err)
	case u.Here && !s.cfg.Keeper:
		return fail(fmt.Errorf("%w: it is of this site", ErrState))
	case p.PIN != nil && *p.PIN != "" || p.Password != nil:
		return fail(fmt.Errorf("%w: a PIN or a password is closed with the key of that site, which only its own boxes have", ErrInvalid))
	}
	if x, _ := s.Site(u.Site); p.Number != nil && len(*p.Number) == x.ExtLen { // an extension is one of the user's own site
		full := x.Code + *p.Number
		p.Number = &full
	}
	scope := crdt.SiteScope(u.Site)
	token, err := s.tokenIn(scope, TableUser, id, etag)
	if err != nil {
		return fail(err)
	}
	if token == nil {
		token = map[crdt.Cell]crdt.Context{}
	}
	s.cfg.Engine.View(func(v View) { // a box that keeps the site has seen what it keeps
		r := reader{v.Set(scope), TableUser, string(id[:])}
		for _, f := range r.set.Fields(r.table, r.rec) {
			if c := (crdt.Cell{Scope: scope, Table: r.table, Record: r.rec, Field: f}); etag == "" {
				token[c] = r.set.Known(c)
			}
		}
	})
	for _, c := range waiting {
		for i := range c.Writes {
			if cell := c.Cell(i); cell.Scope == scope && cell.Record == string(id[:]) {
				token[cell] = token[cell].Join(c.Writes[i].Ctx).With(c.Dot())
			}
		}
	}
	m := Mutation{Scope: scope, Token: token, Auth: a.Auth, By: a.By, Ext: a.Ext}
	if m.Writes, err = s.patch(u, p); err != nil {
		return fail(err)
	}
	for i, w := range m.Writes {
		if w.Field == userDeleted && isTrue(w.Value) {
			m.Writes[i].Value = deletedValue(saw(reader{table: w.Table, rec: w.Record}, token))
		}
	}
	if len(m.Writes) == 0 {
		return nil
	}
	if _, err := s.commit(ctx, m); err != nil {
		return fail(err)
	}
	return nil
}
