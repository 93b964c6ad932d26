package node

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
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
