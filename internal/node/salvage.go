package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
)

// SalvageChanges implements api.Salvage.
func (b *backend) SalvageChanges(ctx context.Context, in api.SalvageBatch) ([]api.SalvagedChange, error) {
	n := b.n
	if own := n.book.Fleet(); in.Fleet != "" && in.Fleet != hex.EncodeToString(own[:]) {
		return nil, api.Conflict("that disk belonged to another fleet", "nothing was taken from it")
	}
	out := make([]api.SalvagedChange, 0, len(in.Changes))
	var cs []*crdt.Change
	var at []int // where the answer about each goes
	for _, raw := range in.Changes {
		c, err := crdt.Decode(bytes.Clone(raw))
		if err != nil {
			out = append(out, api.SalvagedChange{State: "damaged"})
			continue
		}
		cs, at = append(cs, c), append(at, len(out))
		out = append(out, api.SalvagedChange{ID: c.ID().String()})
	}
	disk := strings.ToValidUTF8(in.Disk, "?")
	why := "it was read from the disk " + disk + "; it waits for a person: ccnode node accept"
	got, err := n.engine.Import(ctx, cs, why, in.DryRun)
	for i, x := range got {
		c, o := cs[i], &out[at[i]]
		o.State, o.Sure = x.Novelty.String(), x.Here
		if x.Novelty != replica.Novel && x.Novelty != replica.Waits {
			continue
		}
		d := n.describe(c)
		o.Scope, o.Node, o.By, o.At, o.Writes = n.scopeName(c.Scope), n.nodeName(site.NodeID(c.Node)), d.By, time.UnixMilli(c.Stamp.Millis()), d.Writes
	}
	switch {
	case errors.Is(err, replica.ErrTooManyHeld):
		return nil, api.Conflict(err.Error(), "accept or drop some of what waits, then salvage the disk again: what is here already is not taken twice")
	case err != nil:
		return nil, refuse(err)
	}
	if !in.DryRun {
		n.log.Info("Changes of a salvaged disk are held", "disk", disk, "read", len(in.Changes))
	}
	return out, nil
}

// outcomes are the judgements on changes in a person's words.
var outcomes = map[replica.Outcome]string{replica.Accept: "accepted", replica.Hold: "held", replica.Refuse: "refused"}

// scopeName is a scope in a person's words.
func (n *Node) scopeName(s crdt.Scope) string {
	if id, ok := s.Site(); ok {
		if x, known := n.state.Site(site.ID(id)); known {
			return "site " + x.Code
		}
	}
	return s.String()
}

// SalvageMissing implements api.Salvage.
func (b *backend) SalvageMissing(_ context.Context, refs []string) ([]string, error) {
	missing := []string{}
	for _, text := range refs {
		var ref site.BlobRef
		if err := ref.UnmarshalText([]byte(text)); err != nil {
			return nil, api.Invalid(err.Error(), "a recording goes by the name of its file")
		}
		if !b.n.blobs.Has(ref) {
			missing = append(missing, text)
		}
	}
	return missing, nil
}

// SalvageRecording implements api.Salvage.
func (b *backend) SalvageRecording(_ context.Context, ref site.BlobRef, sealed []byte) error {
	n := b.n
	if n.blobs.Has(ref) {
		return nil
	}
	// A fetch that ended may have left the beginning.
	have := min(n.blobs.Partial(ref), int64(len(sealed)))
	err := n.blobs.PutVerified(ref, bytes.NewReader(sealed[have:]))
	switch {
	case errors.Is(err, blob.ErrMismatch):
		return api.Invalid(err.Error(), "the recording is damaged on that disk")
	case errors.Is(err, blob.ErrNoSpace):
		return api.Unavailable(err.Error(), "free some space, then salvage the disk again")
	case err != nil:
		return refuse(err)
	}
	n.log.Info("Recording of a salvaged disk stored", "blob", ref, "bytes", len(sealed))
	return nil
}

// SalvageAccept implements api.Salvage.
func (b *backend) SalvageAccept(ctx context.Context, by string, a api.SalvageAccept) ([]api.SalvageVerdict, error) {
	n := b.n
	held := n.engine.Held()
	out := []api.SalvageVerdict{}
	if !a.All && len(a.IDs) == 0 {
		return nil, api.Invalid("no change is named", "name some by their ids, or all")
	}
	wanted := func(h replica.Held) bool {
		id := h.ID.String()
		return a.All && h.Ask || slices.ContainsFunc(a.IDs, func(x string) bool { return len(x) >= 8 && strings.HasPrefix(id, x) })
	}
	for _, x := range a.IDs {
		if !slices.ContainsFunc(held, func(h replica.Held) bool { return len(x) >= 8 && strings.HasPrefix(h.ID.String(), x) }) {
			return nil, api.NotFound(fmt.Sprintf("no change that begins with %q is held", x), "\"ccnode status\" lists them")
		}
	}
	slices.SortFunc(held, func(x, y replica.Held) int { // as they were written, so that grants come before what they allow
		return cmp.Or(x.Change.Scope.Compare(y.Change.Scope), cmp.Compare(x.Change.Stamp, y.Change.Stamp))
	})
	for _, h := range held {
		if !wanted(h) {
			continue
		}
		v := api.SalvageVerdict{ID: h.ID.String(), Writes: n.describe(h.Change).Writes}
		if a.All && len(a.IDs) == 0 && h.Change.Scope == crdt.Trust {
			v.Outcome, v.Reason = "left", "it is about who belongs to the fleet: accept it by its id"
			out = append(out, v)
			continue
		}
		got, err := n.engine.Approve(ctx, h.ID)
		if errors.Is(err, replica.ErrUnknownChange) {
			continue // somebody else decided meanwhile
		}
		if err != nil {
			return out, refuse(err)
		}
		v.Outcome, v.Reason = outcomes[got.Outcome], got.Reason
		out = append(out, v)
		n.log.Info("Change of a salvaged disk was decided", "change", h.ID, "by", by, "outcome", v.Outcome)
	}
	return out, nil
}
