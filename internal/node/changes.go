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
