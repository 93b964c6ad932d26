package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/demo/wanrelay"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// strangers puts n numbers into the directory, 16 to a change as a bulk import
// makes them, whose users are at the site of b.
func (b *box) strangers(n int) {
	b.t.Helper()
	home := b.n.member.Site
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	for from := 0; from < n; from += crdt.MaxWrites {
		m := replica.Mutation{Scope: crdt.Fleet}
		for i := from; i < min(from+crdt.MaxWrites, n); i++ {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("stranger"), uint64(i)))
			value, err := cbor.Marshal(map[int]any{1: fmt.Sprintf("0001%07d", i), 2: fmt.Sprintf("User %x", sum[:3]), 3: home[:], 5: uint64(b.n.engine.Now())})
			if err != nil {
				b.t.Fatal(err)
			}
			m.Writes = append(m.Writes, crdt.Write{Table: state.TableDirectory, Record: trust.SiteRecord(home, site.RecordID(sum[:])), Field: "\x01", Value: value})
		}
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if _, err := b.n.engine.Commit(b.t.Context(), m); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// others admits n boxes that nobody ever hears of, each to a site of its own.
func (b *box) others(n int) {
	b.t.Helper()
	own, err := b.n.book.Member(b.n.id.Node())
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	gate := make(chan struct{}, 256)
	for range n {
		id, err := trust.NewIdentity(b.n.rand)
		if err != nil {
			b.t.Fatal(err)
		}
		var at site.ID
		if _, err := io.ReadFull(b.n.rand, at[:]); err != nil {
			b.t.Fatal(err)
		}
		g, err := b.n.id.Issue(b.n.book.Fleet(), own, trust.Name{Key: id.Public(), Seal: id.SealKey(), Site: at, Rights: trust.AdmitSite, Issued: b.n.now().Unix()}, b.n.rand)
		if err != nil {
			b.t.Fatal(err)
		}
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if _, err := b.n.engine.Commit(b.t.Context(), replica.Mutation{Scope: crdt.Trust, Writes: []crdt.Write{trust.GrantWrite(g)}}); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// narrow puts a network with a rate between boxes.
func narrow(t *testing.T, bs ...*box) *wanrelay.Relay {
	t.Helper()
	var nodes []wanrelay.Node
	for i, b := range bs {
		in := b.cfg.Listen[0].As4()
		out := netip.AddrFrom4([4]byte{127, 201 + byte(i), in[2], in[3]})
		b.cfg.Advertise, b.cfg.AdvertiseOnly = out.String(), true
		nodes = append(nodes, wanrelay.Node{Site: b.cfg.Name, Inside: b.cfg.Listen[0], Outside: out, TCP: []uint16{uint16(b.cfg.MeshPort)}})
	}
	wan, err := wanrelay.New(wanrelay.Config{Nodes: nodes, Delay: 25 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wan.Close)
	return wan
}

// ownUsers counts the users of its site that a box has.
func (b *box) ownUsers() (n int) {
	b.n.engine.View(func(v replica.View) {
		n = len(v.Set(crdt.SiteScope(b.n.member.Site)).Records(state.TableUser))
	})
	return n
}

// TestABoxThatWasSwitchedOffWhileItJoined: a box that has a part of its site's
// users, and started again reaches nobody who has the others, does not open its
// port: a telephone would be told that its user is unknown. Later it goes on.
func TestABoxThatWasSwitchedOffWhileItJoined(t *testing.T) {
	s, c := newBox(t, "shop"), newBox(t, "replacement")
	wan := narrow(t, s, c)
	s.up("")
	const users = 200
	for i := range users {
		s.user(fmt.Sprint(201+i), fmt.Sprint("User", i))
	}
	token := s.invite("")
	wan.Shape(48)
	c.start(token)
	c.hear("waiting for the fleet") // said after three seconds
	until(t, "some of the users are there", func() bool { return c.ownUsers() > 10 })
	c.down()
	if n := c.ownUsers(); n >= users {
		t.Fatalf("all %d are there already", n)
	}
	wan.Cut("shop")
	c.start("")
	wait := time.After(2 * time.Second)
	for over := false; !over; {
		select {
		case l := <-c.told:
			if contains(l, "ccnode: ") {
				t.Fatalf("it serves with %d of %d users", c.ownUsers(), users)
			}
		case <-wait:
			over = true
		}
	}
	wan.Shape(0)
	wan.Heal()
	c.hear("ccnode: ")
	if n := c.ownUsers(); n != users {
		t.Errorf("it serves with %d of %d users", n, users)
	}
}

// TestANewBoxServesItsUsersWhileTheDirectoryFills: a replacement joins a site of
// 20 users over a line of 64 kbit/s. Its users' telephones register and call each
// other within a minute, while the directory of the fleet is still on its way, and
// status says how far that is.
func TestANewBoxServesItsUsersWhileTheDirectoryFills(t *testing.T) {
	entries, boxes, patience := 30_000, 2_000, time.Minute
	if os.Getenv("CCNODE_LONG") == "1" {
		entries, boxes, patience = 300_000, 30_000, 10*time.Minute
	}
	h, s, c := newBox(t, "hub"), newBox(t, "shop"), newBox(t, "replacement")
	wan := narrow(t, h, s, c)
	h.up("")
	h.others(boxes)
	h.strangers(entries) // before the site, so that what is about it comes last in every order
	s.up(h.invite("0002"))
	var ana, bob api.User
	for i := range 20 {
		u := s.user(fmt.Sprint(201+i), fmt.Sprint("User", i))
		switch i {
		case 0:
			ana = u
		case 1:
			bob = u
		}
	}
	wait := time.Now()
	for !same(h, s) || s.n.state.Entries() < entries+20 {
		if time.Since(wait) > patience {
			t.Fatalf("the shop knows %d of %d", s.n.state.Entries(), entries+20)
		}
		time.Sleep(20 * time.Millisecond)
	}
	token := s.invite("")
	wan.Cut("hub")
	wan.Shape(64)
	before := wan.Total()

	begun := time.Now()
	c.start(token)
	ready := func() bool {
		select {
		case l := <-c.told:
			return contains(l, "ccnode: ")
		case err := <-c.ended:
			c.ended = nil
			t.Fatalf("the replacement ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		return false
	}
	for !ready() {
		if time.Since(begun) > 90*time.Second {
			t.Fatalf("no SIP after %v, %d bytes; the replacement has %d users, %d entries, knows its site: %v, has a key: %v", time.Since(begun).Round(time.Second),
				wan.Total().Minus(before).Bytes(), len(c.n.state.Users(false)), c.n.state.Entries(), c.n.known(), c.n.state.HasKey())
		}
	}
	opened := time.Since(begun)
	phone := func(u api.User) *phonetest.Phone {
		p, err := phonetest.New(phonetest.Config{Servers: []netip.AddrPort{netip.AddrPortFrom(c.cfg.Listen[0], uint16(c.cfg.SIPPort))},
			Domain: "shops.example", User: u.Number, AuthUser: u.Devices[0].SIPUser, Password: passwordOf(u.Name), Tone: 440})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	from, to := phone(ana), phone(bob)
	for _, p := range []*phonetest.Phone{from, to} {
		if err := p.Register(ctx); err != nil {
			t.Fatalf("after %v: %v", opened, err)
		}
	}
	go func() { // ends with the phone
		if x := <-to.Incoming(); x != nil {
			_ = x.Answer(ctx)
		}
	}()
	call, err := from.Dial(ctx, bob.Number)
	if err != nil {
		t.Fatalf("after %v: %v", opened, err)
	}
	if err := call.Hears(ctx, 440); err != nil {
		t.Fatal(err)
	}
	usable := time.Since(begun)
	if err := call.Hangup(ctx); err != nil {
		t.Error(err)
	}
	st := c.back.Status(ctx)
	filling, grants := -1, -1
	for _, x := range st.Scopes {
		switch x.Scope {
		case "fleet":
			if !x.Complete {
				filling = x.Percent
			}
		case "trust": // who is needed first of the fleet's boxes came first
			grants = x.Percent
		default:
			if !x.Complete {
				t.Errorf("%s is not complete: %d %%", x.Scope, x.Percent)
			}
		}
	}
	t.Logf("%d boxes and a directory of %d at 64 kbit/s: SIP opened after %.1f s, a call heard after %.1f s and %d kB; then it knew %d %% of the boxes, and the directory had %d entries, %d %%",
		boxes, entries, opened.Seconds(), usable.Seconds(), wan.Total().Minus(before).Bytes()/1000, grants, c.n.state.Entries(), filling)
	if usable > time.Minute {
		t.Errorf("usable after %v", usable)
	}
	if filling < 0 || c.n.state.Entries() >= entries {
		t.Errorf("the directory is said to be complete with %d of %d entries", c.n.state.Entries(), entries)
	}
	if users := c.ownUsers(); users != 20 {
		t.Errorf("%d users of the site are here", users)
	}
	wan.Shape(0) // the rest comes, and status says so
	wait = time.Now()
	for !same(s, c) || c.n.state.Entries() < entries+20 {
		if time.Since(wait) > patience {
			t.Fatalf("the directory has %d of %d entries", c.n.state.Entries(), entries+20)
		}
		time.Sleep(20 * time.Millisecond)
	}
	until(t, "status says that all is complete", func() bool {
		for _, x := range c.back.Status(ctx).Scopes {
			if !x.Complete || x.Percent != 100 {
				return false
			}
		}
		return true
	})
}
