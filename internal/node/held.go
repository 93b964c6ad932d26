package node

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// heldDo says what a person can do about a change that waits.
var heldDo = map[replica.Wait]string{
	replica.ForPerson:  "ccnode node accept CHANGE lets it in, ccnode held drop CHANGE forgets it",
	replica.ForAuthor:  "nothing, if its author was admitted a moment ago: it is judged again when that arrives; if nobody knows that box, drop it",
	replica.ForTime:    "look at the clock of the box that wrote it, and at this one's; it is judged again when its time comes",
	replica.ForQuota:   "look at what that box does: ccnode node revoke shuts it out; it is judged again when there is room",
	replica.ForProgram: "update this box: this program fails on it, another version is asked again at its start; tell those who make it; the rest goes on",
	replica.ForTrust:   "nothing, if a box was given rights a moment ago: it is judged again when they arrive; else update this box, or drop it",
}

func (n *Node) heldDetail(h replica.Held) api.HeldDetail {
	c := h.Change
	d := n.describe(c)
	out := api.HeldDetail{ID: h.ID.String(), Why: string(h.Wait()), Reason: h.Why, Do: heldDo[h.Wait()], Scope: n.scopeName(c.Scope),
		Node: n.nodeName(site.NodeID(c.Node)), By: d.By, At: time.UnixMilli(c.Stamp.Millis()), Since: h.At, Alone: n.alone(h), Bytes: len(c.Raw()), Writes: d.Writes}
	if h.Peer != (replica.Peer{}) {
		out.From = n.nodeName(site.NodeID(h.Peer))
	}
	return out
}

// describe says what a change says, as far as this program can.
func (n *Node) describe(c *crdt.Change) (d state.Described) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("A change made this program fail when it was shown", "change", c.ID(), "panic", p, "stack", string(debug.Stack()))
			d = state.Described{Writes: []string{"this program fails to show it"}}
		}
	}()
	return n.state.Describe(c)
}

// alone says that no member is known to have a held change: who brought it had
// it, if it is a member still.
func (n *Node) alone(h replica.Held) bool {
	if h.Peer == (replica.Peer{}) {
		return true
	}
	_, err := n.book.Member(site.NodeID(h.Peer))
	return err != nil
}

// HeldChanges implements api.HeldKeeper.
func (b *backend) HeldChanges(context.Context) ([]api.HeldDetail, error) {
	out := []api.HeldDetail{}
	for _, h := range b.n.engine.Held() {
		out = append(out, b.n.heldDetail(h))
	}
	return out, nil
}

// findHeld finds a held change by the beginning of its id.
func (n *Node) findHeld(id string) (found replica.Held, err error) {
	hits := 0
	for _, h := range n.engine.Held() {
		if len(id) >= 8 && strings.HasPrefix(h.ID.String(), strings.ToLower(id)) {
			found, hits = h, hits+1
		}
	}
	switch hits {
	case 0:
		return found, api.NotFound(fmt.Sprintf("no change that begins with %.80q is held", id), "\"ccnode held list\" shows them; 8 characters are the least")
	case 1:
		return found, nil
	}
	return found, api.Conflict(fmt.Sprintf("%d held changes begin with %.80q", hits, id), "give more of its id")
}

// HeldChange implements api.HeldKeeper.
func (b *backend) HeldChange(_ context.Context, id string) (api.HeldDetail, error) {
	h, err := b.n.findHeld(id)
	if err != nil {
		return api.HeldDetail{}, err
	}
	return b.n.heldDetail(h), nil
}

// quotaWarnings name the boxes that write more than their share.
func (n *Node) quotaWarnings(st replica.Status) (out []string) {
	held := map[site.NodeID]int{}
	for _, h := range n.engine.Held() {
		if h.Wait() == replica.ForQuota {
			held[site.NodeID(h.Change.Node)]++
		}
	}
	for id := range st.Left {
		held[site.NodeID(id)] += 0
	}
	for id, k := range held {
		w := fmt.Sprintf("%s writes more than its share: %d of its changes are held", n.nodeName(id), k)
		if left := st.Left[crdt.NodeID(id)]; left > 0 {
			w += fmt.Sprintf(", %d more were left where they are", left)
		}
		out = append(out, w+"; look at what it does (ccnode held list), or shut it out (ccnode node revoke)")
	}
	slices.Sort(out)
	return out
}

func (n *Node) heldGone(err error) error {
	if errors.Is(err, replica.ErrUnknownChange) {
		return api.NotFound("that change does not wait any more", "\"ccnode held list\" shows what does")
	}
	return refuse(err)
}

// RetryHeld implements api.HeldKeeper.
func (b *backend) RetryHeld(ctx context.Context, by, id string) (out api.HeldVerdict, err error) {
	n := b.n
	h, err := n.findHeld(id)
	if err != nil {
		return out, err
	}
	out = api.HeldVerdict{ID: h.ID.String(), Writes: n.describe(h.Change).Writes}
	v, err := n.engine.RetryHeld(ctx, h.ID)
	if err != nil {
		return out, n.heldGone(err)
	}
	out.Outcome, out.Reason = outcomes[v.Outcome], v.Reason
	n.log.Info("A held change was judged again", "change", h.ID, "by", by, "outcome", out.Outcome)
	return out, nil
}

// DropHeld implements api.HeldKeeper.
func (b *backend) DropHeld(ctx context.Context, by, id string, yes bool) (out api.DroppedChange, err error) {
	n := b.n
	h, err := n.findHeld(id)
	if err != nil {
		return out, err
	}
	d := n.heldDetail(h)
	if !yes {
		other := "another box has it"
		if d.Alone {
			other = "no other box is known to have it"
		}
		return out, api.Conflict(fmt.Sprintf("change %s of %s would be forgotten here (%s); %s", short8(h.ID), d.Node, strings.Join(d.Writes, "; "), other),
			"look at it with \"ccnode held show\"; if you are sure, say --yes")
	}
	if err := n.engine.DropHeld(ctx, h.ID, replica.Dropped{By: by, Writes: d.Writes}); err != nil {
		return out, n.heldGone(err)
	}
	n.log.Warn("A held change was dropped", "change", h.ID, "author", d.Node, "by", by, "reason", h.Why)
	for _, x := range n.engine.DroppedChanges() {
		if x.ID == h.ID {
			out = n.dropped(x)
		}
	}
	return out, nil
}

func short8(id crdt.ID) string { return id.String()[:12] }

func (n *Node) dropped(x replica.Dropped) api.DroppedChange {
	out := api.DroppedChange{ID: x.ID.String(), Node: n.nodeName(site.NodeID(x.Node)), Scope: n.scopeName(x.Scope), Reason: x.Why, By: x.By, At: x.At, Writes: x.Writes}
	if out.Writes == nil {
		out.Writes = []string{}
	}
	return out
}

// DroppedChanges implements api.HeldKeeper.
func (b *backend) DroppedChanges(context.Context) ([]api.DroppedChange, error) {
	out := []api.DroppedChange{}
	for _, x := range b.n.engine.DroppedChanges() {
		out = append(out, b.n.dropped(x))
	}
	return out, nil
}
