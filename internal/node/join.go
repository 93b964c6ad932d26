package node

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/invite"
	"carrierclass.net/ccnode/mesh/mdns"
	"carrierclass.net/ccnode/mesh/p2p"
	"carrierclass.net/ccnode/mesh/pairing"
)

// joinProtocol is the one thing a stranger may open (state.md §7, mesh.md §2).
//
//	newcomer → member  hello: who it is, its nonce (by token) or a commitment to it (on the LAN)
//	member → newcomer  its chain of grants, its nonce
//	newcomer → member  the claim and a proof, or the nonce; now both can show six digits
//	member → newcomer  the grant and where to go on, or why not
const joinProtocol = "/ccnode/join/1"

const (
	joinWait    = 10 * time.Second
	approveWait = 10 * time.Minute
	maxJoin     = 256 << 10
)

type joinHello struct {
	Key    []byte   `cbor:"1,keyasint"`
	Seal   []byte   `cbor:"2,keyasint"`
	Name   string   `cbor:"3,keyasint"`
	Addrs  []string `cbor:"4,keyasint"`
	Nonce  []byte   `cbor:"5,keyasint,omitempty"` // by token
	Commit []byte   `cbor:"6,keyasint,omitempty"` // on the LAN
}

type joinMember struct {
	Chain []byte `cbor:"1,keyasint"`
	Nonce []byte `cbor:"2,keyasint"`
	Fleet []byte `cbor:"3,keyasint"`
}

type joinProof struct {
	Claim []byte `cbor:"1,keyasint,omitempty"`
	Proof []byte `cbor:"2,keyasint,omitempty"`
	Nonce []byte `cbor:"3,keyasint,omitempty"`
}

type joinAnswer struct {
	Refused  string          `cbor:"1,keyasint,omitempty"`
	Chain    []byte          `cbor:"2,keyasint,omitempty"`
	Site     []byte          `cbor:"3,keyasint,omitempty"`
	Code     string          `cbor:"4,keyasint,omitempty"`
	SiteName string          `cbor:"5,keyasint,omitempty"`
	Letter   string          `cbor:"6,keyasint,omitempty"`
	Fleet    string          `cbor:"7,keyasint,omitempty"`
	Domain   string          `cbor:"8,keyasint,omitempty"`
	First    bool            `cbor:"9,keyasint,omitempty"`
	Nodes    []joinAddresses `cbor:"10,keyasint,omitempty"`
}

type joinAddresses struct {
	Node  []byte   `cbor:"1,keyasint"`
	Addrs []string `cbor:"2,keyasint"`
}

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
	return n.state.PutNode(ctx, x)
}

// fill waits for what a newcomer must have. One that was here before does not
// wait: what it has is on its disk.
func (n *Node) fill(ctx context.Context) error {
	if n.filled() || n.revoked() != nil {
		return n.revoked()
	}
	n.web.doing("waiting for the fleet's data")
	for _, s := range n.sponsors() {
		n.mesh.Dial(mesh.PeerID(s.Node))
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	again := n.now()
	told := false
	for !n.filled() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := n.revoked(); err != nil {
			return err
		}
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

func (n *Node) filled() bool {
	own := n.state.Own()
	_, domain := n.state.Fleet()
	_, err := n.book.Member(n.id.Node())
	return err == nil && own.Code != "" && domain != "" && (n.drawsKey() || n.state.HasKey())
}

// joinToken redeems an invite.
func (n *Node) joinToken(ctx context.Context, text string) error {
	t, err := invite.Parse(text)
	if err != nil {
		return fmt.Errorf("join: %w; copy the whole token from \"ccnode invite create\"", err)
	}
	if err := t.CheckTime(n.now()); err != nil && !errors.Is(err, invite.ErrExpired) {
		n.log.Warn("The token's times look wrong here; the inviting node decides", "err", err)
	}
	inviter := mesh.PeerID(t.NodeID())
	n.mesh.Admit([]mesh.Peer{{ID: inviter, Addrs: t.Addrs}})
	nonce, err := n.nonce()
	if err != nil {
		return err
	}
	jctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := n.mesh.OpenStream(jctx, inviter, joinProtocol)
	if err != nil {
		return fmt.Errorf("join: the inviting node cannot be reached at %v: %w; is it running, and does its router let port %d through?", t.Addrs, err, n.cfg.MeshPort)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(joinWait))
	enc, dec := cbor.NewEncoder(s), cbor.NewDecoder(io.LimitReader(s, maxJoin))
	seal := n.id.SealKey()
	if err := enc.Encode(joinHello{Key: n.id.Public(), Seal: seal[:], Name: n.cfg.Name, Addrs: n.meshAddrs(), Nonce: nonce}); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	var m joinMember
	if err := dec.Decode(&m); err != nil {
		return fmt.Errorf("join: the inviting node does not answer: %w", err)
	}
	if _, err := trust.VerifyChain(m.Chain, crdt.FleetID(t.Fleet), t.Inviter); err != nil {
		return fmt.Errorf("join: the node at %v is not of the invite's fleet, nothing was revealed to it: %w", t.Addrs, err)
	}
	link := invite.Link{Joiner: n.id.Node(), Sponsor: inviter, Channel: append(slices.Clone(nonce), m.Nonce...)}
	if err := enc.Encode(joinProof{Claim: t.Claim.Encode(), Proof: t.Prove(link)}); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	var a joinAnswer
	if err := dec.Decode(&a); err != nil {
		return fmt.Errorf("join: the inviting node broke off: %w", err)
	}
	return n.admitted(a, crdt.FleetID(t.Fleet), peerAddr{Node: site.NodeID(inviter), Addrs: t.Addrs})
}

// admitted takes the member's answer.
func (n *Node) admitted(a joinAnswer, fleet crdt.FleetID, sponsor peerAddr) error {
	if a.Refused != "" {
		return fmt.Errorf("join: refused: %s", a.Refused)
	}
	if _, err := trust.VerifyChain(a.Chain, fleet, n.id.Public()); err != nil {
		return fmt.Errorf("join: the grant is not good: %w", err)
	}
	if len(a.Site) != len(site.ID{}) {
		return errors.New("join: the answer names no site")
	}
	m := &member{FleetID: hex.EncodeToString(fleet[:]), Chain: a.Chain, Site: site.ID(a.Site), Code: a.Code, SiteName: a.SiteName,
		Letter: a.Letter, Fleet: a.Fleet, Domain: a.Domain, First: a.First, Sponsor: []peerAddr{sponsor}}
	for _, x := range a.Nodes {
		if len(x.Node) == len(site.NodeID{}) && site.NodeID(x.Node) != sponsor.Node {
			m.Sponsor = append(m.Sponsor, peerAddr{Node: site.NodeID(x.Node), Addrs: x.Addrs})
		}
	}
	n.member = m
	n.mesh.Hangup(mesh.PeerID(sponsor.Node))
	return m.write(n.cfg.Data)
}

func (n *Node) nonce() ([]byte, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(n.rand, b); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return b, nil
}

// joinLAN looks for members on the LAN, knocks, and shows six digits until a
// person approves there.
func (n *Node) joinLAN(ctx context.Context) error {
	n.opt.Tell("looking for a member on the LAN …")
	n.web.doing("looking for a member on the LAN")
	for {
		bctx, found := context.WithCancel(ctx)
		var who mdns.Info
		err := n.browse(bctx, n.cfg.Listen, func(i mdns.Info) {
			if who.Node == "" {
				who = i
				found()
			}
		})
		found()
		if errors.Is(err, mdns.ErrNoLAN) {
			return errors.New("join: this box has no LAN with multicast; plug it in, or join with a token: ccnode up --join TOKEN")
		}
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = n.knock(ctx, who)
		if err == nil {
			return nil
		}
		var no refusal
		if errors.As(err, &no) {
			return err
		}
		n.opt.Tell("join: " + err.Error() + "; trying again")
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

// refusal is final: a person said no, or a rule did.
type refusal struct{ error }

func (n *Node) knock(ctx context.Context, who mdns.Info) error {
	id := p2p.PeerID(ed25519.PublicKey(who.Key[:]))
	p := mesh.Peer{ID: id}
	for _, ip := range who.Addrs {
		p.Addrs = append(p.Addrs, p2p.JoinHostPort(ip, who.Port))
	}
	n.mesh.Admit([]mesh.Peer{p})
	s, err := n.mesh.OpenStream(ctx, id, joinProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	s.SetDeadline(time.Now().Add(joinWait))
	enc, dec := cbor.NewEncoder(s), cbor.NewDecoder(io.LimitReader(s, maxJoin))
	mine, err := n.nonce()
	if err != nil {
		return err
	}
	own, seal := pairing.Key(n.id.Public()), n.id.SealKey()
	c := pairing.Commit(own, who.Key, pairing.Nonce(mine))
	if err := enc.Encode(joinHello{Key: own[:], Seal: seal[:], Name: n.cfg.Name, Addrs: n.meshAddrs(), Commit: c[:]}); err != nil {
		return err
	}
	var m joinMember
	if err := dec.Decode(&m); err != nil {
		return fmt.Errorf("%s does not answer: %w", who.Name, err)
	}
	if len(m.Nonce) != len(pairing.Nonce{}) || len(m.Fleet) != len(crdt.FleetID{}) {
		return fmt.Errorf("%s answered nonsense", who.Name)
	}
	if _, err := trust.VerifyChain(m.Chain, crdt.FleetID(m.Fleet), ed25519.PublicKey(who.Key[:])); err != nil {
		return fmt.Errorf("%s is no member of the fleet it names: %w", who.Name, err)
	}
	if err := enc.Encode(joinProof{Nonce: mine}); err != nil {
		return err
	}
	code := pairing.Code(own, who.Key, pairing.Nonce(mine), pairing.Nonce(m.Nonce))
	n.opt.Tell(fmt.Sprintf("code %s: on a box of site %s (%s), approve it there if it shows the same: ccnode pending approve %s", code, who.Site, who.Name, code))
	n.web.doing("waiting until somebody at site " + who.Site + " approves code " + code)
	s.SetDeadline(time.Now().Add(approveWait))
	var a joinAnswer
	if err := dec.Decode(&a); err != nil {
		return fmt.Errorf("nobody approved: %w", err)
	}
	if a.Refused != "" {
		return refusal{fmt.Errorf("join: refused: %s", a.Refused)}
	}
	return n.admitted(a, crdt.FleetID(m.Fleet), peerAddr{Node: site.NodeID(id), Addrs: p.Addrs})
}

// neighbours are boxes that knocked and wait for a person.
type neighbours struct {
	one     sync.Mutex // held while a box is judged and admitted: one place is given once
	mu      sync.Mutex
	waiting map[string]*knocker // by code
}

type knocker struct {
	api.Pending
	hello   joinHello
	answer  chan joinAnswer
	settled bool
}

const maxWaiting = 8

func (w *neighbours) add(k *knocker) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[string]*knocker{}
	}
	if len(w.waiting) >= maxWaiting {
		return fmt.Errorf("%d other boxes wait for approval here already", maxWaiting)
	}
	if w.waiting[k.Code] != nil {
		return errors.New("another box shows the same code; try again")
	}
	w.waiting[k.Code] = k
	return nil
}

func (w *neighbours) remove(code string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, code)
}

func (w *neighbours) list() (out []api.Pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.waiting {
		out = append(out, k.Pending)
	}
	slices.SortFunc(out, func(a, b api.Pending) int { return a.Since.Compare(b.Since) })
	return out
}

// serveJoin is the member's side. Until the last message a stranger learns
// who we are, and nothing else.
func (n *Node) serveJoin(s mesh.Stream) {
	defer s.Close()
	s.SetDeadline(time.Now().Add(joinWait))
	enc, dec := cbor.NewEncoder(s), cbor.NewDecoder(io.LimitReader(s, maxJoin))
	var h joinHello
	if err := dec.Decode(&h); err != nil {
		return
	}
	refuse := func(why string) {
		_ = enc.Encode(joinAnswer{Refused: why})
		n.log.Info("A box was refused", "name", clip(h.Name), "peer", s.Peer().String(), "why", why)
	}
	if len(h.Key) != ed25519.PublicKeySize || len(h.Seal) != 32 || p2p.PeerID(h.Key) != s.Peer() || len(h.Addrs) > 8 || len(h.Name) > 120 {
		return
	}
	nonce, err := n.nonce()
	if err != nil {
		return
	}
	fleet := n.book.Fleet()
	if err := enc.Encode(joinMember{Chain: n.member.Chain, Nonce: nonce, Fleet: fleet[:]}); err != nil {
		return
	}
	var p joinProof
	if err := dec.Decode(&p); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), joinWait)
	defer cancel()
	switch {
	case len(h.Nonce) == 16:
		a, err := n.redeem(ctx, s, h, p, append(slices.Clone(h.Nonce), nonce...))
		if err != nil {
			refuse(err.Error())
			return
		}
		_ = enc.Encode(a)
		n.log.Info("A box joined", "name", clip(h.Name), "site", a.Code, "node", s.Peer().String())
	case len(h.Commit) == len(pairing.Commitment{}) && len(p.Nonce) == len(pairing.Nonce{}):
		n.pend(s, enc, h, pairing.Nonce(p.Nonce), pairing.Nonce(nonce), refuse)
	}
}

func clip(s string) string { return fmt.Sprintf("%.60q", s) }

// redeem judges a token and, if it is good, admits its bearer.
func (n *Node) redeem(ctx context.Context, s mesh.Stream, h joinHello, p joinProof, channel []byte) (a joinAnswer, err error) {
	claim, err := invite.DecodeClaim(p.Claim)
	if err != nil {
		return a, err
	}
	env := invite.Env{Now: n.now(), Fleet: n.book.Fleet(), Home: n.member.Site, Joiner: s.Peer(),
		Inviter: func(key ed25519.PublicKey, to [10]byte) ([10]byte, bool, bool) {
			g, err := n.book.MemberKey(key)
			if err != nil {
				return [10]byte{}, false, false
			}
			may := g.Rights&trust.AdmitFleet != 0 || (g.Rights&trust.AdmitSite != 0 && g.Site == site.ID(to))
			return g.Site, may, true
		}}
	n.lan.one.Lock()
	defer n.lan.one.Unlock()
	id := site.RecordID(claim.ID)
	if i, ok := n.state.Invite(id); ok {
		env.Revoked, env.RevokedAt, env.RevokedBy = i.Revoked, i.RevokedAt, i.RevokedBy
		if !i.Redeemed.IsZero() {
			env.Redeemed = &invite.Redemption{By: i.Redeemed, At: i.RedeemedAt}
		}
	}
	if err := invite.Check(claim, env); err != nil {
		return a, err
	}
	if err := claim.VerifyProof(invite.Link{Joiner: s.Peer(), Sponsor: n.id.Node(), Channel: channel}, p.Proof); err != nil {
		return a, err
	}
	if _, err := n.mayJoin(site.NodeID(s.Peer()), site.ID(claim.Site)); err != nil {
		return a, err // and the token is as good as before
	}
	if env.Redeemed == nil {
		if err := n.state.RedeemInvite(ctx, id, site.NodeID(s.Peer())); err != nil {
			return a, err
		}
	}
	return n.sponsor(ctx, h, site.ID(claim.Site))
}

// mayJoin says why a box cannot come to a site, whoever invites it. g is its
// grant if it is there already.
func (n *Node) mayJoin(id site.NodeID, at site.ID) (g *trust.Grant, err error) {
	x, ok := n.state.Site(at)
	if !ok {
		return nil, fmt.Errorf("site %s is not known at the inviting node any more", at)
	}
	if n.book.Revocation(id) != nil {
		return nil, fmt.Errorf("node %s was revoked; start the box with an empty data folder, then it is a new one", id)
	}
	g, err = n.book.Member(id)
	switch {
	case err == nil && g.Site != at:
		return nil, fmt.Errorf("this box is a member of another site already; revoke node %s first, or start it with an empty data folder", id)
	case err == nil:
		return g, nil
	case len(n.state.Nodes(at)) >= 2:
		return nil, fmt.Errorf("site %s has two boxes already; revoke the one that is replaced: ccnode node revoke NAME", x.Code)
	}
	return nil, nil
}

// sponsor issues the grant for a box and tells it where to go on.
func (n *Node) sponsor(ctx context.Context, h joinHello, at site.ID) (a joinAnswer, err error) {
	id := trust.NodeID(ed25519.PublicKey(h.Key))
	g, err := n.mayJoin(id, at)
	if err != nil {
		return a, err
	}
	own, err := n.book.Member(n.id.Node())
	if err != nil {
		return a, fmt.Errorf("the inviting node is no member any more: %w", err)
	}
	x, _ := n.state.Site(at)
	others := n.state.Nodes(at)
	fresh := g == nil
	if fresh {
		g, err = n.id.Issue(n.book.Fleet(), own, trust.Name{Key: ed25519.PublicKey(h.Key), Seal: [32]byte(h.Seal), Site: at, Rights: trust.AdmitSite, Issued: n.now().Unix()}, n.rand)
		if err != nil {
			return a, err
		}
		if err := n.state.PutTrust(ctx, "invite", g); err != nil {
			return a, err
		}
		if at == n.member.Site {
			if _, err := n.state.WrapKeys(ctx); err != nil {
				return a, err
			}
		}
	}
	chain, err := n.book.Chain(g)
	if err != nil {
		return a, err
	}
	// A box that asks again, because it did not hear our answer, gets the same
	// one: what came after it does not count.
	later := func(o state.Node) bool {
		og, err := n.book.Member(o.ID)
		return !fresh && err == nil && og.Issued >= g.Issued
	}
	name, domain := n.state.Fleet()
	a = joinAnswer{Chain: chain.Encode(), Site: at[:], Code: x.Code, SiteName: x.Name, Letter: letter(others, id, later), Fleet: name, Domain: domain, First: true}
	for _, o := range others {
		if o.ID != id {
			a.First = a.First && later(o) // it draws the site's key
			a.Nodes = append(a.Nodes, joinAddresses{o.ID[:], o.Mesh})
		}
	}
	n.moved(ctx)
	return a, nil
}

// letter names a node within its site. One that was admitted before and has not
// written its name yet was given the first that was free.
func letter(others []state.Node, id site.NodeID, later func(state.Node) bool) string {
	taken := map[string]bool{}
	unheard := 0
	for _, o := range others {
		switch {
		case o.ID == id && o.Name != "":
			return o.Name
		case o.Name != "":
			taken[o.Name] = true
		case o.ID != id && !later(o):
			unheard++
		}
	}
	for l := 'a'; l <= 'z'; l++ {
		switch {
		case taken[string(l)]:
		case unheard > 0:
			unheard--
		default:
			return string(l)
		}
	}
	return "z"
}

// pend shows a box to the people of this site, and waits for one of them.
func (n *Node) pend(s mesh.Stream, enc *cbor.Encoder, h joinHello, theirs, ours pairing.Nonce, refuse func(string)) {
	newcomer, own := pairing.Key(h.Key), pairing.Key(n.id.Public())
	if err := pairing.Open(pairing.Commitment(h.Commit), newcomer, own, theirs); err != nil {
		refuse(err.Error())
		return
	}
	addr := ""
	if host, _, err := net.SplitHostPort(s.RemoteAddr().String()); err == nil {
		addr = host
	}
	k := &knocker{Pending: api.Pending{Node: s.Peer().String(), Name: h.Name, Addr: addr, Code: pairing.Code(newcomer, own, theirs, ours), Since: n.now()},
		hello: h, answer: make(chan joinAnswer, 1)}
	if err := n.lan.add(k); err != nil {
		refuse(err.Error())
		return
	}
	defer n.lan.remove(k.Code)
	n.log.Info("A box on the LAN wants to join; compare the code and approve it", "name", clip(h.Name), "addr", addr, "code", k.Code)
	s.SetDeadline(time.Now().Add(approveWait))
	gone := make(chan struct{})
	go func() { // ends when the stream does
		defer close(gone)
		_, _ = io.Copy(io.Discard, s)
	}()
	select {
	case a := <-k.answer:
		_ = enc.Encode(a)
		if a.Refused == "" {
			n.log.Info("A box joined", "name", clip(h.Name), "site", a.Code, "node", s.Peer().String())
		}
		select { // it closes when it has read the answer
		case <-gone:
		case <-time.After(2 * time.Second):
		}
	case <-gone:
	}
}

// approve admits the box that shows the code.
func (n *Node) approve(ctx context.Context, by, code string, at site.ID) (*knocker, joinAnswer, error) {
	n.lan.mu.Lock()
	k := n.lan.waiting[code]
	if k != nil && !k.settled {
		k.settled = true
	} else {
		k = nil
	}
	n.lan.mu.Unlock()
	if k == nil {
		return nil, joinAnswer{}, api.NotFound("no box here shows the code "+code, "\"ccnode pending list\" shows which do; approve only a code that both boxes show")
	}
	n.lan.one.Lock()
	a, err := n.sponsor(ctx, k.hello, at)
	n.lan.one.Unlock()
	if err != nil {
		k.answer <- joinAnswer{Refused: err.Error()}
		return nil, a, api.Conflict(err.Error(), "nothing was admitted")
	}
	k.answer <- a
	n.log.Info("A box was approved", "by", by, "code", code)
	return k, a, nil
}
