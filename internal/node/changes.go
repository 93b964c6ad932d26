package node

import (
	"context"
	"errors"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/state"
)

func (b *backend) Merges(_ context.Context, closed bool) ([]api.Merge, error) {
	ms, err := b.n.state.Merges(closed)
	if err != nil {
		return nil, refuse(err)
	}
	out := make([]api.Merge, 0, len(ms))
	for _, m := range ms {
		out = append(out, b.n.merge(m))
	}
	return out, nil
}

// merge is one as the interface shows it.
func (n *Node) merge(m state.Merge) api.Merge {
	x := api.Merge{ID: m.ID, Kind: m.Kind, Record: m.Record, Field: m.Field, InForce: m.InForce, Why: m.Why, Both: m.Both, Do: m.Do,
		Closed: m.Closed, Sides: []api.MergeSide{}}
	if m.Kind != state.MergeNumber {
		x.Policy = m.Policy.String()
	}
	for _, s := range m.Sides {
		x.Sides = append(x.Sides, n.side(s))
	}
	if m.ClosedBy != nil {
		d := n.side(*m.ClosedBy)
		x.ClosedBy = &d
	}
	return x
}

func (n *Node) side(s state.Side) api.MergeSide {
	at, _ := n.state.Site(s.Site)
	out := api.MergeSide{Value: s.Value, By: s.By, Site: at.Code, At: s.At, InForce: s.InForce, Version: s.Version}
	if !s.Node.IsZero() {
		out.Node = n.nodeName(s.Node)
	}
	if s.Known {
		out.Was = &s.Was
	}
	if s.Change != (crdt.ID{}) {
		out.Change = s.Change.String()
	}
	return out
}

func (b *backend) KeepMerge(ctx context.Context, by, id, version string) error {
	err := b.n.state.Keep(ctx, by, id, version)
	if errors.Is(err, state.ErrNotFound) {
		return api.NotFound(err.Error(), "\"ccnode merges\" shows the merges and the versions that can be kept")
	}
	return refuse(err)
}

func (b *backend) History(_ context.Context, kind, who string) (api.History, error) {
	h, err := state.History{}, error(nil)
	if kind == "" && who == "" {
		h, err = b.n.state.Recent()
	} else {
		h, err = b.n.state.History(kind, who)
	}
	if err != nil {
		return api.History{}, unknown(err)
	}
	out := api.History{Kind: h.Kind, Record: h.Record, Since: h.Since.UTC(), Changes: []api.HistoryEntry{}}
	for _, c := range h.Changes {
		at, _ := b.n.state.Site(c.Site)
		x := api.HistoryEntry{ID: c.ID.String(), At: c.At.UTC(), By: c.By, Node: b.n.nodeName(c.Node), Site: at.Code}
		for _, f := range c.Fields {
			x.Fields = append(x.Fields, field(f))
		}
		out.Changes = append(out.Changes, x)
	}
	return out, nil
}

// unknown says where to look for a record that was not found.
func unknown(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return api.NotFound(err.Error(), "a record of another site is asked for at a box of that site (--api)")
	}
	return refuse(err)
}

func field(f state.FieldEdit) api.HistoryField {
	out := api.HistoryField{Record: f.Record, Field: f.Field, New: f.New, State: "overwritten"}
	switch {
	case f.InForce:
		out.State = "in-force"
	case f.Live:
		out.State = "beside"
	}
	if f.Known {
		out.Old = &f.Old
	}
	return out
}

func (b *backend) Undo(ctx context.Context, by, change string, yes bool) (api.Undone, error) {
	x, err := b.n.state.Undo(ctx, by, change, yes)
	switch {
	case errors.Is(err, state.ErrSince):
		return api.Undone{}, api.Conflict(err.Error(), "say yes (ccnode undo --yes) to write over that all the same")
	case errors.Is(err, state.ErrNotFound):
		return api.Undone{}, api.NotFound(err.Error(), "\"ccnode history\" shows the changes of a record; another box of the site may remember more")
	case err != nil:
		return api.Undone{}, refuse(err)
	}
	out := api.Undone{Record: x.Record, Fields: []api.HistoryField{}, Left: x.Left}
	for _, f := range x.Fields {
		out.Fields = append(out.Fields, field(f))
	}
	return out, nil
}
