package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/invite"
	"carrierclass.net/ccnode/mesh/p2p"
	"carrierclass.net/ccnode/mesh/pairing"
)

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
	if err := enc.Encode(joinMember{Chain: n.proof(), Nonce: nonce, Fleet: fleet[:]}); err != nil {
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
