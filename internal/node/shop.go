package node

import (
	"context"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// kept is one kind of what an administrator keeps, for the interface. resolve
// turns what people write (extensions, names) into ids.
type kept[T state.Record] struct {
	n       *Node
	resolve func(*state.State, *T) error
}

func (r kept[T]) List(context.Context) ([]T, error) { return state.List[T](r.n.state), nil }

func (r kept[T]) Get(_ context.Context, who string) (T, error) {
	v, err := state.Named[T](r.n.state, who)
	return v, refuse(err)
}

func (r kept[T]) Create(ctx context.Context, by string, v T) (T, error) {
	if err := r.words(&v); err != nil {
		return v, err
	}
	v, err := state.Create(ctx, r.n.state, by, v)
	return v, refuse(err)
}

func (r kept[T]) Change(ctx context.Context, by, who, etag string, fn func(*T) error) (T, error) {
	v, err := state.Named[T](r.n.state, who)
	if err != nil {
		return v, refuse(err)
	}
	id := any(&v).(interface{ Record() *site.Head }).Record().ID
	v, err = state.Change(ctx, r.n.state, by, id, etag, func(v *T) error {
		if err := fn(v); err != nil {
			return err
		}
		return r.words(v)
	})
	return v, refuse(err)
}

func (r kept[T]) words(v *T) error {
	if r.resolve == nil {
		return nil
	}
	return refuse(r.resolve(r.n.state, v))
}

// userIDs turns users as people name them into ids.
func userIDs(s *state.State, who []string) error {
	for i, w := range who {
		id, err := s.Find(w)
		if err != nil {
			return err
		}
		who[i] = id.String()
	}
	return nil
}

func groupIDs(s *state.State, g *site.Group) error { return userIDs(s, g.Members) }

func menuIDs(s *state.State, m *site.Menu) error {
	if m.Hours == "" {
		return nil
	}
	h, err := state.Named[site.Hours](s, m.Hours)
	m.Hours = h.ID.String()
	return err
}

// phoneIDs: a line is a device; a user means the user's first one.
func phoneIDs(s *state.State, p *site.Phone) error {
	if err := checkPhone(p); err != nil {
		return err
	}
	for i, l := range p.Lines {
		id, err := s.Find(l)
		if err != nil {
			continue // a device's id, or nothing: the state says so
		}
		if u, err := s.User(id); err == nil && len(u.Devices) > 0 {
			p.Lines[i] = u.Devices[0].ID.String()
		}
	}
	return nil
}

// Shop gives all of them out.
func (b *backend) Shop() api.Shop {
	n := b.n
	return api.Shop{Trunks: kept[site.Trunk]{n, nil}, Numbers: kept[site.Inbound]{n, nil}, Groups: kept[site.Group]{n, groupIDs},
		Menus: kept[site.Menu]{n, menuIDs}, Hours: kept[site.Hours]{n, n.hoursWords}, Phones: kept[site.Phone]{n, phoneIDs}, Shop: kept[site.Shop]{n, nil}, Provisioning: provisioning{n}}
}
