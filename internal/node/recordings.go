package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// A recording exists where the entry that names it is kept: at each box of its
// home, and at one box of each site that keeps the home's state.

// wanted lists the recordings that should be here and are not.
func (n *Node) wanted() (out []replica.Want) {
	for _, ref := range n.state.Blobs() {
		if !n.blobs.Has(ref) {
			from, near := n.holders(ref)
			out = append(out, replica.Want{Ref: ref, From: from, Near: near, Yield: !n.ours(ref)})
		}
	}
	for _, id := range n.kept.list() {
		s := n.kept.state(id)
		if s == nil || n.kept.leaving(id) {
			continue
		}
		for _, ref := range s.Blobs() {
			if !n.blobs.Has(ref) && n.ours(ref) {
				out = append(out, replica.Want{Ref: ref, From: n.holdersFor(s, id, ref)})
			}
		}
	}
	return out
}

// ours says whether this box holds what its site keeps of a recording of another
// site, or is the first to fetch one of its own: of those that can be reached, the
// one that the name falls to.
func (n *Node) ours(ref site.BlobRef) bool {
	self := n.id.Node()
	for _, id := range n.copyOrder(n.member.Site, ref) {
		if id == self || !n.lost.has(id) {
			return id == self
		}
	}
	return false
}

// copyOrder is the boxes of a site in the order in which they hold one copy.
func (n *Node) copyOrder(of site.ID, ref site.BlobRef) (out []site.NodeID) {
	for _, g := range n.book.Members(of) {
		out = append(out, g.Node())
	}
	weight := func(id site.NodeID) []byte {
		w := sha256.Sum256(append(ref[:len(ref):len(ref)], id[:]...))
		return w[:]
	}
	slices.SortFunc(out, func(a, b site.NodeID) int { return bytes.Compare(weight(a), weight(b)) })
	return out
}

// holders are the nodes that may have a recording that our mailboxes name. The
// first near of them are of our site.
func (n *Node) holders(ref site.BlobRef) (out []replica.Peer, near int) {
	out = n.holdersFor(n.state, n.member.Site, ref)
	for near < len(out) && n.siteID(site.NodeID(out[near])) == n.member.Site {
		near++
	}
	return out, near
}

// holdersFor lists those of the mailbox's home, those where the message was left,
// and those of the sites that keep the home's state.
func (n *Node) holdersFor(s *state.State, home site.ID, ref site.BlobRef) (out []replica.Peer) {
	add := func(of site.ID) {
		for _, id := range n.copyOrder(of, ref) {
			if p := crdt.NodeID(id); id != n.id.Node() && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	add(home)
	for _, m := range s.MessagesWith(ref) {
		add(m.LeftAt)
	}
	for _, as := range []state.Keeping{state.Keeps, state.Takes, state.Leaves} {
		for _, id := range s.Keepers(as) {
			add(id)
		}
	}
	return out
}

const (
	// still is how long somebody waits for a recording of which nothing comes.
	still = 20 * time.Second
	// givenUp is how long until those who have it are known to be away.
	givenUp = 6 * time.Second
)

// bring waits until a recording is here, as long as it gets on.
func (n *Node) bring(ctx context.Context, ref site.BlobRef) error {
	if n.blobs.Has(ref) {
		return nil
	}
	from, near := n.holders(ref)
	n.fetch.Fetch(ref, from, near)
	start, moved, have := n.now(), n.now(), int64(-1)
	for {
		wctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		err := n.arrivals.wait(wctx, n.blobs, ref)
		cancel()
		if err == nil {
			return nil
		}
		now := n.now()
		p, _ := n.fetch.Progress(ref)
		if p.Have > have {
			have, moved = p.Have, now
		}
		away := len(from) > 0 && p.Unreachable+p.Lack+p.Wrong >= len(from) && now.Sub(start) >= givenUp
		if away || len(from) == 0 || ctx.Err() != nil || now.Sub(moved) >= still {
			return notHere(p, len(from))
		}
	}
}

// notHere says why a recording is not here, and what helps.
func notHere(p replica.Progress, holders int) error {
	what := "the recording has not arrived yet"
	if p.Size > 0 {
		what = fmt.Sprintf("%d of %d kB of the recording have arrived", p.Have>>10, p.Size>>10)
	}
	switch {
	case holders == 0:
		return api.Unavailable(what+": no other box is known that has it", "it may come back with a box that is away")
	case p.Unreachable+p.Lack+p.Wrong >= holders && p.Unreachable > 0:
		return api.Unavailable(fmt.Sprintf("%s: none of the %d boxes that may have it can be reached (%d away, %d do not have it, %d sent something else)",
			what, holders, p.Unreachable, p.Lack, p.Wrong), "it goes on by itself where it stopped when one of them is back")
	case p.Lack+p.Wrong >= holders:
		return api.Unavailable(fmt.Sprintf("%s: none of the %d boxes that should have it has it", what, holders), "it may come back with a box that is away")
	}
	return api.Unavailable(what, "try again later; it is asked for first now")
}

// mailboxes is the state as voicemail uses it. What is left here for another
// site is held until that site has it.
type mailboxes struct {
	state.Mailboxes
	n *Node
}

// Deliver adds a message to a mailbox of any site.
func (m mailboxes) Deliver(ctx context.Context, msg site.Message) error {
	home := msg.Site
	if e, ok := m.n.state.Entry(msg.Mailbox); home.IsZero() && ok {
		home = e.Home
	}
	if !home.IsZero() && home != m.n.member.Site && !msg.Audio.IsZero() {
		if err := m.n.owedAudio().Put(ctx, string(msg.Audio[:])+string(home[:]), []byte{1}); err != nil {
			return fmt.Errorf("hold recording %s for site %s: %w", msg.Audio, home, err)
		}
	}
	return m.Mailboxes.Deliver(ctx, msg)
}

// owedAudio remembers for which sites recordings are held here, by name and site.
func (n *Node) owedAudio() *disk.Bucket { return disk.NewBucket(n.store, "owedaudio") }

// owesAudio says whether a recording is here for a site that does not have it. One
// that it has is not asked about again.
func (n *Node) owesAudio(ctx context.Context, ref site.BlobRef) bool {
	var to []site.ID
	if err := n.owedAudio().ScanPrefix(string(ref[:]), func(key string, _ []byte) error {
		if len(key) == len(ref)+len(site.ID{}) {
			to = append(to, site.ID([]byte(key[len(ref):])))
		}
		return nil
	}); err != nil {
		n.log.Error("For whom a recording is held cannot be read; it stays", "blob", ref, "err", err)
		return true
	}
	if len(to) == 0 {
		return false
	}
	has := map[site.ID]bool{}
	for _, p := range n.fetch.Acked(ref) {
		has[n.siteID(site.NodeID(p))] = true
	}
	owes := false
	for _, id := range to {
		if !has[id] && len(n.book.Members(id)) > 0 {
			owes = true
			continue
		}
		if err := n.owedAudio().Delete(ctx, string(ref[:])+string(id[:])); err != nil {
			owes = true
		}
	}
	return owes
}

// collect removes recordings that nothing names any more, until ctx ends.
func (n *Node) collect(ctx context.Context) {
	start := time.Now() // its monotonic part: givenUp sets that
	named := map[site.BlobRef]bool{}
	c := blob.NewCollector(blob.CollectConfig{Store: n.blobs, Elapsed: func() time.Duration { return time.Since(start) },
		Named:    func(ref site.BlobRef) bool { return named[ref] },
		Mentions: n.mentions,
		Owed:     func(ref site.BlobRef) bool { return n.owesAudio(ctx, ref) },
		Removed: func(refs []site.BlobRef) {
			for _, ref := range refs {
				if err := n.fetch.Forget(ctx, ref); err != nil && ctx.Err() == nil {
					n.log.Warn("Who holds a recording that was removed is still on record", "blob", ref, "err", err)
				}
			}
		}})
	t := time.NewTicker(blob.SweepEvery)
	defer t.Stop()
	for {
		clear(named)
		for _, ref := range n.state.Blobs() {
			named[ref] = true
		}
		for _, id := range n.kept.list() {
			if s := n.kept.state(id); s != nil {
				for _, ref := range s.Blobs() {
					named[ref] = true
				}
			}
		}
		if _, err := c.Sweep(); err != nil && ctx.Err() == nil && !errors.Is(err, disk.ErrNoSpace) {
			n.log.Error("Recordings of no use could not be removed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// mentions tells what anything in the state mentions, while nothing is merged.
func (n *Node) mentions(fn func(anywhere func(site.BlobRef) bool)) {
	st, held := n.engine.Status(), n.engine.Held()
	n.engine.View(func(v replica.View) {
		fn(func(ref site.BlobRef) bool {
			for _, form := range [][]byte{ref[:], []byte(hex.EncodeToString(ref[:])), []byte(ref.String())} {
				for _, s := range st.Scopes {
					if v.Set(s.Scope).Mentions(form) {
						return true
					}
				}
				for _, h := range held {
					if slices.ContainsFunc(h.Change.Writes, func(w crdt.Write) bool { return bytes.Contains(w.Value, form) }) {
						return true
					}
				}
			}
			return false
		})
	})
}
