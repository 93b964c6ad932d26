package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/p2p"
)

// found makes a fleet of one.
func (n *Node) found() error {
	root, err := trust.NewRoot(n.rand)
	if err != nil {
		return fmt.Errorf("found a fleet: %w", err)
	}
	f := trust.Found(root)
	var at site.ID
	if _, err := io.ReadFull(n.rand, at[:]); err != nil {
		return fmt.Errorf("found a fleet: %w", err)
	}
	g, err := root.Issue(f.ID(), trust.Name{Key: n.id.Public(), Seal: n.id.SealKey(), Site: at,
		Rights: trust.AdmitFleet | trust.AdmitSite | trust.Relay, Issued: n.now().Unix()}, n.rand)
	if err != nil {
		return fmt.Errorf("found a fleet: %w", err)
	}
	domain := n.cfg.Domain
	if domain == "" {
		domain = state.DefaultDomain(f.ID())
	}
	if err := writeFile(n.path(rootFile), root.Seed()); err != nil {
		return err
	}
	fid := f.ID()
	n.member = &member{FleetID: hex.EncodeToString(fid[:]), Chain: (&trust.Chain{Founding: f, Grants: []*trust.Grant{g}}).Encode(), Site: at,
		Code: n.cfg.SiteCode, SiteName: n.cfg.SiteName, Letter: "a", Fleet: n.cfg.Fleet, Domain: domain, ExtLen: n.cfg.ExtLen, Founder: true, First: true}
	return n.member.write(n.cfg.Data)
}

// ready brings the records of this node up to date and, after joining, waits
// until trust and the own site are here: phones get no answer before, rather
// than a wrong one.
func (n *Node) ready(ctx context.Context, fresh bool) error {
	chain, err := trust.VerifyChain(n.member.Chain, n.book.Fleet(), n.id.Public())
	if err != nil {
		return err
	}
	if err := n.storeLost(); err != nil {
		return err
	}
	if n.member.Founder && !n.refill {
		if err := n.state.PutTrust(ctx, "founder", chain.Grants...); err != nil {
			return fmt.Errorf("found the fleet: %w", err)
		}
		if _, domain := n.state.Fleet(); domain == "" {
			if err := n.state.SetFleet(ctx, "founder", n.member.Fleet, n.member.Domain); err != nil {
				return fmt.Errorf("found the fleet: %w", err)
			}
		}
		if n.state.Own().Code == "" {
			if _, err := n.state.PutSite(ctx, "founder", state.Site{ID: n.member.Site, Code: n.member.Code, Name: n.member.SiteName, ExtLen: n.member.ExtLen, Emergency: []string{"112"}}); err != nil {
				return fmt.Errorf("found the fleet: %w", err)
			}
		}
	} else {
		if err := n.fill(ctx); err != nil {
			return err
		}
	}
	if n.drawsKey() && !n.state.HasKey() {
		if err := n.state.DrawKey(ctx, "system"); err != nil {
			return err
		}
	}
	n.memberMu.Lock()
	n.member.Filled = true
	err = n.remember()
	n.memberMu.Unlock()
	if err != nil && !errors.Is(err, disk.ErrNoSpace) && !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	if err := n.putNode(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("This node's addresses were not written", "err", err)
	}
	n.moved(ctx)
	n.wg.Go(func() {
		if err := n.state.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("Nobody looks after the state any more", "err", err)
		}
	})
	n.wg.Go(func() {
		if err := n.fetch.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("Recordings are not fetched any more", "err", err)
		}
	})
	n.wg.Go(func() { n.collect(ctx) })
	if n.cfg.BehindNAT {
		n.keeper = newKeeper(n)
		n.wg.Go(func() { n.keeper.run(ctx) })
	}
	n.fetch.Poke()
	n.announceLAN()
	return nil
}

// storeLost tells a box that lost its store from a new one: it does not found
// its fleet a second time, but has the store filled by the others.
func (n *Node) storeLost() error {
	if !n.member.Filled || n.known() {
		return nil
	}
	if len(n.sponsors()) == 0 {
		if slices.ContainsFunc(n.engine.Status().Scopes, func(s replica.ScopeStatus) bool { return s.Changes > 0 }) {
			return nil // alone with what is left; the damage was reported
		}
		return fmt.Errorf("%s is empty, missing or damaged beyond use though this box is a member, and it knows no other box that could fill it%s: restore the folder from a backup; or set %s aside and start empty, which founds a new fleet without what was here",
			n.path("db"), said(n.engine.Status().Damage), n.cfg.Data)
	}
	n.refill = true
	n.odd = append(n.odd, "the store of this box was lost; it was filled again by the other boxes. What only this box held is gone: look after this disk")
	n.log.Error("Store is lost, waiting for the other boxes to fill it", "dir", n.path("db"))
	return nil
}

// drawsKey says whether the site's key is ours to make. A first box that lost
// its store makes another one only if nobody else has the old one.
func (n *Node) drawsKey() bool {
	if !n.member.First || !n.refill {
		return n.member.First
	}
	return len(n.book.Members(n.member.Site)) < 2 && !slices.ContainsFunc(n.sponsors(), func(p peerAddr) bool { return p.Pair })
}

func said(damage []string) string {
	if len(damage) == 0 {
		return ""
	}
	return " (" + strings.Join(damage, "; ") + ")"
}

// known says whether the store knows our own site and fleet.
func (n *Node) known() bool {
	_, domain := n.state.Fleet()
	return n.state.Own().Code != "" && domain != ""
}

// putNode writes where this node can be reached, if that changed.
func (n *Node) putNode(ctx context.Context) error {
	x := state.Node{Name: n.member.Letter, Mesh: n.meshAddrs()}
	for _, ip := range n.cfg.Listen {
		x.SIP = append(x.SIP, p2p.JoinHostPort(ip, n.cfg.SIPPort))
	}
	if old, ok := n.state.Node(n.id.Node()); ok && n.before == nil {
		n.before = old.SIP // for the doctor: whether we moved
	}
	return n.state.PutNode(ctx, x)
}

// fill waits for what a newcomer must have. One that was here before does not
// wait: what it has is on its disk.
func (n *Node) fill(ctx context.Context) error {
	if n.filled() && !n.refill && n.member.Filled || n.revoked() != nil {
		return n.revoked()
	}
	n.web.doing(n.filling())
	for _, s := range n.sponsors() {
		n.mesh.Dial(mesh.PeerID(s.Node))
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	again := n.now()
	told := false
	for !n.filled() || !n.ownHere() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := n.revoked(); err != nil {
			return err
		}
		n.web.doing(n.filling())
		if n.now().Sub(again) > 3*time.Second {
			again = n.now()
			if !told {
				told = true
				n.opt.Tell("waiting for the fleet's data …")
			}
			for _, s := range n.sponsors() {
				n.mesh.Dial(mesh.PeerID(s.Node))
			}
		}
	}
	return nil
}

// revoked says that this box itself knows it, which not every revoked one does.
func (n *Node) revoked() error {
	if n.book.Revocation(n.id.Node()) == nil {
		return nil
	}
	return fmt.Errorf("this box was revoked, the others do not talk to it any more: set the folder %s aside, start empty, and join with a new invite", n.cfg.Data)
}

// ownHere says that what the telephones of our site need is here: the site's own
// state, as far as the others had it when they said hello. What is needed of trust
// came before it (neededFirst); other members and the directory of the fleet come
// later, and status says how far they are. A box that
// was switched off while it joined waits for its key (filled), which was written
// after all that the others had when it was admitted.
func (n *Node) ownHere() bool {
	return n.engine.Filling(crdt.SiteScope(n.member.Site)).Done()
}

// neededFirst is what a box that lacks much of a scope is sent first. It runs in
// the engine's turn.
func (n *Node) neededFirst(v replica.View, p replica.Peer, scope crdt.Scope) []crdt.ID {
	g, err := n.book.Member(site.NodeID(p))
	if err != nil {
		return nil
	}
	switch scope {
	case crdt.Fleet:
		return state.NeededFirst(v, g.Site)
	case crdt.Trust:
		wrote := map[site.NodeID]bool{}
		fleet := v.Set(crdt.Fleet)
		for _, id := range state.NeededFirst(v, g.Site) {
			wrote[site.NodeID(fleet.Author(id))] = true
		}
		sites := []site.ID{g.Site}
		if g.Site == n.member.Site {
			sites = append(sites, n.kept.list()...) // it is sent these, too
		}
		for _, x := range sites {
			set := v.Set(crdt.SiteScope(x))
			set.EachID(func(id crdt.ID) { wrote[site.NodeID(set.Author(id))] = true })
		}
		authors := slices.SortedFunc(maps.Keys(wrote), func(a, b site.NodeID) int { return slices.Compare(a[:], b[:]) })
		return n.book.NeededFirst(v.Set(crdt.Trust), g.Site, authors)
	}
	return nil
}

// filling says, to whoever asks meanwhile, how far what we wait for has come.
func (n *Node) filling() string {
	trust, own := n.engine.Filling(crdt.Trust), n.engine.Filling(crdt.SiteScope(n.member.Site))
	if trust.Of == 0 {
		return "waiting for the fleet's data"
	}
	return fmt.Sprintf("waiting for the fleet's data: of who belongs to it %d %% are here, of this site's own state %d %%", trust.Percent(), own.Percent())
}

func (n *Node) filled() bool {
	own := n.state.Own()
	_, domain := n.state.Fleet()
	_, err := n.book.Member(n.id.Node())
	return err == nil && own.Code != "" && domain != "" && (n.drawsKey() || n.state.HasKey())
}
