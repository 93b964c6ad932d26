package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// renewGrant makes this node write, and show itself to newcomers, under the
// grant that counts now: somebody gave it more rights, or gave it its grant
// anew because whom it rested on was revoked.
func (n *Node) renewGrant() {
	g, err := n.book.Member(n.id.Node())
	if err != nil {
		return // what is, stays: whoever is to judge it has the same book
	}
	chain, err := n.book.Chain(g)
	if err != nil {
		return // its issuer's grant has not arrived
	}
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	raw := chain.Encode()
	if string(raw) == string(n.member.Chain) {
		return
	}
	n.member.Chain = raw
	n.engine.UseGrant(g.ID())
	if err := n.remember(); err != nil {
		n.log.Warn("The new grant of this box is not kept; it is found again at the next start", "err", err)
	}
}

// proof is the chain that proves our membership.
func (n *Node) proof() []byte {
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	return n.member.Chain
}

// RevokeNode shuts a box out for good. keep says which of the boxes that it
// admitted stay: "all", "none", or their names or ids.
func (b *backend) RevokeNode(ctx context.Context, by, who string, keep []string) error {
	n := b.n
	id, err := n.findNode(who)
	if err != nil {
		return api.NotFound(err.Error(), "\"ccnode mesh peers\" shows their names")
	}
	if id == n.id.Node() {
		return api.Conflict("a box does not revoke itself", "do it on another one")
	}
	if err := n.book.MayRevoke(n.id.Node(), id); err != nil {
		return refuse(err)
	}
	keeps, err := n.keeps(id, keep)
	if err != nil {
		return err
	}
	if err := n.state.RevokeNode(ctx, by, id, "", keeps); err != nil {
		return refuse(err)
	}
	n.moved(ctx)
	return nil
}

// keeps are the grants that a box gave out and that stay when it is revoked. A
// box that admitted others is not revoked before a person has said of them.
func (n *Node) keeps(id site.NodeID, keep []string) (out []crdt.Ref, err error) {
	rests := n.book.RestOn(id)
	names := make([]string, len(rests))
	for i, r := range rests {
		names[i] = n.nodeName(r.Grant.Node())
		if more := len(r.Members); more > 1 {
			names[i] += fmt.Sprintf(" (with %d that it admitted in turn)", more-1)
		}
	}
	const most = 20
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += fmt.Sprintf(" and %d more", len(names)-most)
	}
	switch {
	case len(rests) == 0:
		return nil, nil
	case len(keep) == 0:
		return nil, api.Conflict("it admitted "+list+", which would be shut out with it", "look whether all of them are yours: --keep all, --keep NAME,NAME, or --keep none")
	case slices.Equal(keep, []string{"none"}):
		keep = nil
	}
	for _, r := range rests {
		at := r.Grant.Node()
		if slices.Contains(keep, "all") || slices.Contains(keep, at.String()) || slices.Contains(keep, n.nodeName(at)) {
			out = append(out, r.Grant.ID())
		} else if slices.Contains(r.Members, n.id.Node()) {
			return nil, api.Conflict("this box would shut itself out: it is a member because of "+n.nodeName(at), "keep that one, or make this box an issuer first: ccnode recover")
		}
	}
	for _, k := range keep {
		if k != "all" && !slices.ContainsFunc(rests, func(r trust.Rest) bool { return r.Grant.Node().String() == k || n.nodeName(r.Grant.Node()) == k }) {
			return nil, api.Invalid(fmt.Sprintf("%.80q was not admitted by it", k), "it admitted "+list)
		}
	}
	return out, nil
}

// RaiseNode gives a box the right to admit to the fleet, or to carry for others.
func (b *backend) RaiseNode(ctx context.Context, by, who string, x api.NodeRights) error {
	id, err := b.n.findNode(who)
	if err != nil {
		return api.NotFound(err.Error(), "\"ccnode mesh peers\" shows their names")
	}
	var r trust.Rights
	if x.Admit {
		r |= trust.AdmitFleet | trust.AdmitSite
	}
	if x.Relay {
		r |= trust.Relay
	}
	if r == 0 {
		return api.Invalid("no right is named", "say admit, relay, or both; rights end with the box: ccnode node revoke")
	}
	if err := b.n.state.Raise(ctx, by, id, r); err != nil {
		if errors.Is(err, trust.ErrRights) {
			return api.Conflict("this box may not give that: it may not admit to the whole fleet", "do it on a box that may, or make this one: ccnode recover")
		}
		return refuse(err)
	}
	b.n.moved(ctx)
	return nil
}

// Recover makes this box an issuer with the words of the recovery sheet.
func (b *backend) Recover(ctx context.Context, by string, words []string) error {
	root, err := trust.RootFromWords(words)
	if err == nil {
		defer root.Wipe()
		err = b.n.state.Recover(ctx, by, root)
	}
	switch {
	case errors.Is(err, trust.ErrWords):
		return api.Invalid(err.Error(), "read the 24 words from the sheet again, in their order")
	case err != nil:
		return refuse(err)
	}
	b.n.log.Info("This box may admit to the whole fleet from now on, by the recovery sheet", "by", by)
	b.n.moved(ctx)
	return nil
}
