package node

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh/invite"
)

// redeem shows tok to the box at, as a newcomer of id would, and returns the
// answer. What is shown can be changed on the way.
func redeem(t *testing.T, id *trust.Identity, at *box, tok *invite.Token, change func(*joinProof, *invite.Link)) joinAnswer {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patienceOfTests)
	defer stop()
	m := stranger(t, id, at)
	defer m.Close()
	broken := func(err error) joinAnswer {
		t.Errorf("the member broke off: %v", err)
		return joinAnswer{Refused: err.Error()}
	}
	s, err := m.OpenStream(ctx, at.peer(), joinProtocol)
	if err != nil {
		return broken(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(patienceOfTests))
	enc, dec := cbor.NewEncoder(s), cbor.NewDecoder(io.LimitReader(s, maxJoin))
	seal, nonce := id.SealKey(), make([]byte, 16)
	if err := enc.Encode(joinHello{Key: id.Public(), Seal: seal[:], Name: "by hand", Nonce: nonce}); err != nil {
		return broken(err)
	}
	var jm joinMember
	if err := dec.Decode(&jm); err != nil {
		return broken(err)
	}
	link := invite.Link{Joiner: id.Node(), Sponsor: at.peer(), Channel: append(slices.Clone(nonce), jm.Nonce...)}
	p := joinProof{Claim: tok.Claim.Encode()}
	if change != nil {
		change(&p, &link)
	}
	if p.Proof == nil {
		p.Proof = tok.Prove(link)
	}
	if err := enc.Encode(p); err != nil {
		return broken(err)
	}
	var a joinAnswer
	if err := dec.Decode(&a); err != nil {
		return broken(err)
	}
	return a
}

// TestTheMemberRefusesForgedProofs: what our own newcomer never sends.
func TestTheMemberRefusesForgedProofs(t *testing.T) {
	a := newBox(t, "a").up("")
	other := newBox(t, "other").up("")
	tok, err := invite.Parse(a.invite(""))
	if err != nil {
		t.Fatal(err)
	}
	mint := func(p invite.Params) *invite.Token {
		t.Helper()
		p.ID, p.Addrs, p.Now, p.Rand = site.RecordID{9}, tok.Addrs, time.Now(), a.n.rand
		x, err := invite.New(p)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	fleet, at, id := a.n.book.Fleet(), a.n.member.Site, newIdentity(t)
	for _, c := range []struct {
		name   string
		tok    *invite.Token
		change func(*joinProof, *invite.Link)
		want   error
	}{
		{"another fleet's invite", mint(invite.Params{Fleet: other.n.book.Fleet(), Site: at, Inviter: a.n.id.Public(), Sign: a.n.id.Sign}), nil, invite.ErrFleet},
		{"made by a stranger", mint(invite.Params{Fleet: fleet, Site: at, Inviter: id.Public(), Sign: id.Sign}), nil, invite.ErrInviter},
		{"the claim without its secret", tok, func(p *joinProof, _ *invite.Link) { p.Proof = make([]byte, 64) }, invite.ErrProof},
		{"a proof heard on another connection", tok, func(_ *joinProof, l *invite.Link) { l.Channel[20]++ }, invite.ErrProof},
		{"a proof for another box", tok, func(_ *joinProof, l *invite.Link) { l.Joiner[0]++ }, invite.ErrProof},
		{"a claim that was altered", tok, func(p *joinProof, _ *invite.Link) {
			c := tok.Claim
			c.Expires += 3600
			p.Claim = c.Encode()
		}, invite.ErrSignature},
	} {
		ans := redeem(t, newIdentity(t), a, c.tok, c.change)
		if !contains(ans.Refused, c.want.Error()) {
			t.Errorf("%s: refused with %q, want %q", c.name, ans.Refused, c.want)
		}
		if ans.Chain != nil || ans.Nodes != nil || ans.Domain != "" {
			t.Errorf("%s: the refusal carries %+v", c.name, ans)
		}
	}
	if n := len(a.n.book.Members(site.ID{})); n != 1 {
		t.Errorf("the fleet has %d members, want 1", n)
	}
	if ans := redeem(t, newIdentity(t), a, tok, nil); ans.Refused != "" {
		t.Errorf("after the forgeries the invite is refused to its bearer: %s", ans.Refused)
	}
}

// TestAJoinCutShort: the first box of a site is admitted, and dies before it
// hears so. The site's second box comes first; then the first one tries again,
// with the same invite. They have two names, and the site one key.
func TestAJoinCutShort(t *testing.T) {
	a := newBox(t, "a").up("")
	token := a.invite("0002")
	tok, err := invite.Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	id := newIdentity(t)
	if ans := redeem(t, id, a, tok, nil); ans.Refused != "" || ans.Letter != "a" || !ans.First {
		t.Fatalf("the first box is answered %+v", ans)
	}

	second := newBox(t, "second")
	second.start(a.invite("0002"))
	until(t, "the second box is a member", func() bool { return len(a.n.book.Members(site.ID{})) == 3 })

	first := newBox(t, "first")
	first.key(id.Seed())
	first.up(token)
	second.hear("ccnode: joined")
	if first.n.member.Letter != "a" || second.n.member.Letter != "b" {
		t.Errorf("their names are %s and %s", first.n.member.Letter, second.n.member.Letter)
	}
	u := second.user("201", "Chi")
	until(t, "the site's boxes have one key", func() bool { return first.mayRegister(u, "Chi") })
	if got := len(first.n.state.Keys().Epochs()); got != 1 {
		t.Errorf("the site has %d keys", got)
	}
}

// TestManyKnockAtOnce: one invite admits one box, and one place is given once,
// however many ask in the same moment.
func TestManyKnockAtOnce(t *testing.T) {
	a := newBox(t, "a").up("")
	parse := func(text string) *invite.Token {
		t.Helper()
		tok, err := invite.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	const boxes = 4 // from one address
	shared := parse(a.invite("0002"))
	var one, each []*invite.Token
	for range boxes {
		one = append(one, shared)
		each = append(each, parse(a.invite("")))
	}
	for _, c := range []struct {
		name string
		toks []*invite.Token
		want error
		site site.ID
	}{
		{"one invite", one, invite.ErrRedeemed, shared.Site},
		{"one place", each, errors.New("has two boxes already"), a.n.member.Site},
	} {
		before := len(a.n.book.Members(c.site))
		var wg sync.WaitGroup
		answers := make([]joinAnswer, boxes)
		for i, tok := range c.toks {
			id := newIdentity(t)
			wg.Go(func() { answers[i] = redeem(t, id, a, tok, nil) })
		}
		wg.Wait()
		admitted := 0
		for _, ans := range answers {
			switch {
			case ans.Refused == "":
				admitted++
			case !contains(ans.Refused, c.want.Error()):
				t.Errorf("%s: refused with %q, want %q", c.name, ans.Refused, c.want)
			}
		}
		if admitted != 1 || len(a.n.book.Members(c.site)) != before+1 {
			t.Errorf("%s: %d of %d boxes were admitted, the site has %d members, had %d", c.name, admitted, boxes, len(a.n.book.Members(c.site)), before)
		}
	}
}
