package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/mdns"
	"carrierclass.net/ccnode/mesh/p2p"
	"carrierclass.net/ccnode/mesh/pairing"
)

// announced is what the LAN would hear of a box.
func (b *box) announced() mdns.Info {
	i := mdns.Info{Node: b.n.id.Node().String(), Fleet: b.n.member.Domain, Site: b.n.member.Code, Name: b.n.member.SiteName, Port: b.cfg.MeshPort, Addrs: b.cfg.Listen}
	copy(i.Key[:], b.n.id.Public())
	return i
}

// hears makes the box find these neighbours on its LAN.
func (b *box) hears(is ...mdns.Info) *box {
	b.browse = func(ctx context.Context, _ []netip.Addr, found func(mdns.Info)) error {
		for _, i := range is {
			found(i)
		}
		<-ctx.Done()
		return nil
	}
	return b
}

var digits6 = regexp.MustCompile(`\b[0-9]{6}\b`)

// knocking starts the box on the LAN and returns the code that it shows.
func (b *box) knocking() string {
	b.t.Helper()
	b.start("lan")
	return digits6.FindString(b.hear("code "))
}

// shown waits until a box knocks here, and returns what the person sees.
func (b *box) shown() api.Pending {
	b.t.Helper()
	var ps []api.Pending
	until(b.t, "a box knocks at "+b.cfg.Name, func() bool {
		var err error
		ps, err = b.back.Pending(b.t.Context())
		return err == nil && len(ps) > 0
	})
	if len(ps) != 1 {
		b.t.Fatalf("%d boxes knock at %s, want 1", len(ps), b.cfg.Name)
	}
	return ps[0]
}

// TestJoinOverTheLAN: both boxes show the same six digits, nothing of the fleet
// is at the newcomer before a person approves, and then it is a member.
func TestJoinOverTheLAN(t *testing.T) {
	a := newBox(t, "a").up("")
	ana := a.user("201", "Ana")
	c := newBox(t, "c").hears(a.announced())
	c.knocking()
	a.shown()
	c.down() // somebody stops it while it waits: no error, and nobody knocks any more
	until(t, "the member forgets who went away", func() bool { ps, err := a.back.Pending(t.Context()); return err == nil && len(ps) == 0 })

	code := c.knocking()
	p := a.shown()
	if code == "" || p.Code != code {
		t.Fatalf("the newcomer shows %q, the member %q", code, p.Code)
	}
	if p.Node != c.peer().String() || p.Name != "c" || p.Addr != c.cfg.Listen[0].String() {
		t.Errorf("the member shows %+v", p)
	}

	// Nobody has approved: nothing is stored, and what came is a handshake and a chain.
	err := c.n.store.View(func(r disk.Reader) error {
		return r.Scan(nil, func(key, value []byte) error {
			t.Errorf("the stranger stores %q", key)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if in, _ := c.n.mesh.Total(); in == 0 || in > 2500 {
		t.Errorf("the stranger received %d bytes", in)
	}
	if n := a.back.Status(t.Context()).Fleet.Nodes; n != 1 {
		t.Errorf("the fleet has %d nodes before the approval", n)
	}
	if _, err := a.n.book.Member(site.NodeID(c.peer())); err == nil {
		t.Error("the stranger is a member before the approval")
	}
	var e *api.Error
	wrong := "000000"
	if wrong == code {
		wrong = "000001"
	}
	if _, err := a.back.Approve(t.Context(), "boss", api.Approval{Code: wrong}); !errors.As(err, &e) || e.Status != 404 || !contains(e.Error(), wrong, "both boxes show") {
		t.Errorf("a code that nobody shows: %v", err)
	}

	ok, err := a.back.Approve(t.Context(), "boss", api.Approval{Code: code})
	if err != nil {
		t.Fatal(err)
	}
	if ok.ID != p.Node || ok.SiteCode != "0001" || ok.Name != "b.s0001.shops.example" {
		t.Errorf("approved: %+v", ok)
	}
	c.hear("ccnode: joined")
	until(t, "the newcomer knows Ana and lets her telephone in", func() bool { return c.knows("Ana") && c.mayRegister(ana, "Ana") })
	if ps, _ := a.back.Pending(t.Context()); len(ps) != 0 {
		t.Errorf("still waiting for approval: %+v", ps)
	}
	if _, err := a.back.Approve(t.Context(), "boss", api.Approval{Code: code}); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("approved twice: %v", err)
	}
}

// TestLANJoinRefused: what was approved and cannot be is refused with the
// reason, on both sides, and the newcomer can try again.
func TestLANJoinRefused(t *testing.T) {
	a := newBox(t, "a").up("")
	newBox(t, "b").up(a.invite(""))
	until(t, "the pair is known", func() bool { return len(a.n.state.Nodes(a.n.member.Site)) == 2 })
	c := newBox(t, "c").hears(a.announced())
	code := c.knocking()
	a.shown()
	_, err := a.back.Approve(t.Context(), "boss", api.Approval{Code: code})
	var e *api.Error
	if !errors.As(err, &e) || e.Status != 409 || !contains(e.Error(), "site 0001 has two boxes already", "nothing was admitted") {
		t.Errorf("a third box of a site: %v", err)
	}
	if why := c.end(); !contains(why, "join: refused: site 0001 has two boxes already") {
		t.Errorf("the newcomer says %q", why)
	}
	if got := holds(t, c); len(got) > 0 {
		t.Errorf("the refused box holds %q", got)
	}
	if n := len(a.n.book.Members(site.ID{})); n != 2 {
		t.Errorf("the fleet has %d members after the refusal", n)
	}

	code = c.knocking()
	until(t, "the member shows the new code", func() bool {
		ps, _ := a.back.Pending(t.Context())
		return len(ps) == 1 && ps[0].Code == code
	})
	if _, err := a.back.Approve(t.Context(), "boss", api.Approval{Code: code, Site: "0002"}); err != nil {
		t.Fatal(err)
	}
	c.hear("ccnode: joined")
	if c.n.member.Code != "0002" || !c.n.member.First {
		t.Errorf("the membership is %+v", c.n.member)
	}
}

// TestAnAnnouncementIsNotBelieved: what is heard on the LAN is not believed: another key at the
// address gets no word from us, and people are shown nothing.
func TestAnAnnouncementIsNotBelieved(t *testing.T) {
	a := newBox(t, "a").up("")
	lie := a.announced()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	copy(lie.Key[:], pub)
	c := newBox(t, "c").hears(lie)
	c.start("lan")
	c.hear("trying again")
	if ps, _ := a.back.Pending(t.Context()); len(ps) != 0 {
		t.Errorf("the member shows %+v to its people", ps)
	}
	c.down()
	if got := holds(t, c); len(got) > 0 {
		t.Errorf("the box holds %q", got)
	}
}

// stranger is a mesh with a key of its own that knows where a box is.
func stranger(t *testing.T, id *trust.Identity, at *box) *p2p.Mesh {
	t.Helper()
	m, err := p2p.New(p2p.Config{Key: id.Private(), Listen: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)},
		Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	m.Admit([]mesh.Peer{{ID: at.peer(), Addrs: []string{at.meshAddr()}}})
	return m
}

func newIdentity(t *testing.T) *trust.Identity {
	t.Helper()
	id, err := trust.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAStrangerLearnsNothing: who knocks by hand gets the chain of grants, and
// no other protocol, no link, and no word of the fleet's data.
func TestAStrangerLearnsNothing(t *testing.T) {
	a := newBox(t, "a").up("")
	a.user("201", "Ana")
	id := newIdentity(t)
	m := stranger(t, id, a)
	ctx, stop := context.WithTimeout(t.Context(), patienceOfTests)
	defer stop()
	for _, p := range []string{sipProtocol, pairProtocol, apiProtocol, keepProtocol, "/ccnode/relay/1", "/ccnode/relayed/1"} {
		// A stranger has one stream a connection: on the one before, the member
		// may be hanging up.
		m.Hangup(a.peer())
		s, err := m.OpenStream(ctx, a.peer(), p)
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(patienceOfTests))
		if b, err := io.ReadAll(s); len(b) > 0 || !errors.Is(err, mesh.ErrRefused) {
			t.Errorf("%s answers a stranger with %d bytes, %v; want a refusal", p, len(b), err)
		}
		s.Close()
	}
	m.Dial(a.peer())
	select {
	case ev := <-m.Events():
		if ev.Kind == mesh.Received {
			t.Errorf("a stranger receives a frame of %d bytes", len(ev.Body))
		}
		if ev.Kind == mesh.LinkUp {
			// Noise lets us believe so until the member hangs up.
			if ev = <-m.Events(); ev.Kind != mesh.LinkDown {
				t.Errorf("a stranger's link goes on with %v", ev.Kind)
			}
		}
	case <-ctx.Done():
		t.Fatal("no word of the link")
	}

	m.Hangup(a.peer())
	s, err := m.OpenStream(ctx, a.peer(), joinProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var heard bytes.Buffer
	enc, dec := cbor.NewEncoder(s), cbor.NewDecoder(io.TeeReader(s, &heard))
	own, nonce, seal := pairing.Key(id.Public()), pairing.Nonce{1}, id.SealKey()
	c := pairing.Commit(own, pairing.Key(a.n.id.Public()), nonce)
	if err := enc.Encode(joinHello{Key: own[:], Seal: seal[:], Name: "thief", Commit: c[:]}); err != nil {
		t.Fatal(err)
	}
	var jm joinMember
	if err := dec.Decode(&jm); err != nil {
		t.Fatal(err)
	}
	// Having seen the member's nonce, it shows another one than it committed to.
	nonce[0]++
	if err := enc.Encode(joinProof{Nonce: nonce[:]}); err != nil {
		t.Fatal(err)
	}
	var ans joinAnswer
	if err := dec.Decode(&ans); err != nil {
		t.Fatal(err)
	}
	if ans.Refused != pairing.ErrCommitment.Error() || ans.Chain != nil || ans.Nodes != nil {
		t.Errorf("whoever changes its mind gets %+v", ans)
	}
	if ps, _ := a.back.Pending(t.Context()); len(ps) != 0 {
		t.Errorf("people are shown %+v", ps)
	}
	for _, secret := range []string{"Ana", "0001201", "0001", "shops", passwordOf("Ana"), a.cfg.Listen[0].String()} {
		if bytes.Contains(heard.Bytes(), []byte(secret)) {
			t.Errorf("the stranger heard %q", secret)
		}
	}
	if strings.Contains(a.log.String(), passwordOf("Ana")) {
		t.Error("the log has a password")
	}
}
