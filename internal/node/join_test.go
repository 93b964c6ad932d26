package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh/invite"
)

// TestJoinByToken: the second box of a site and the first of a new one know the
// user made before they came, and what is made at them arrives at the founder.
func TestJoinByToken(t *testing.T) {
	a := newBox(t, "a").up("")
	ana := a.user("201", "Ana")

	pair := newBox(t, "b").up(a.invite(""))
	other := newBox(t, "c").up(a.invite("0002"))
	if pair.n.book.Fleet() != a.n.book.Fleet() || other.n.book.Fleet() != a.n.book.Fleet() {
		t.Fatal("they are of different fleets")
	}
	if pair.n.member.Site != a.n.member.Site || pair.n.member.Letter != "b" || pair.n.member.First {
		t.Errorf("the pair's membership is %+v", pair.n.member)
	}
	if other.n.member.Site == a.n.member.Site || other.n.member.Code != "0002" || other.n.member.Letter != "a" || !other.n.member.First {
		t.Errorf("the new site's membership is %+v", other.n.member)
	}
	for _, b := range []*box{pair, other} {
		until(t, b.cfg.Name+" knows Ana", func() bool { return b.knows("Ana") })
	}
	until(t, "Ana's telephone is let in at the pair", func() bool { return pair.mayRegister(ana, "Ana") })
	if other.mayRegister(ana, "Ana") {
		t.Error("another site lets Ana's telephone in: it has her secret")
	}

	bob := pair.user("202", "Bob")
	chi := other.user("201", "Chi")
	if chi.Number != "0002201" {
		t.Errorf("Chi has number %s", chi.Number)
	}
	for _, b := range []*box{a, pair, other} {
		until(t, b.cfg.Name+" knows Bob and Chi", func() bool { return b.knows("Bob") && b.knows("Chi") })
	}
	until(t, "Bob's telephone is let in at the founder", func() bool { return a.mayRegister(bob, "Bob") })
	until(t, "all three hold the same", func() bool { return same(a, pair, other) })
	if st := a.back.Status(t.Context()); st.Fleet.Nodes != 3 || st.Fleet.Sites != 2 || st.Pair == nil {
		t.Errorf("the founder sees %d nodes, %d sites, pair %v", st.Fleet.Nodes, st.Fleet.Sites, st.Pair)
	}

	// The joined box comes back by itself, and needs no token for it.
	other.down()
	a.user("203", "Dee")
	other.start(a.invite("0002"))
	other.hear("member already")
	other.hear("ccnode: a.s0002.shops.example")
	until(t, "what was made while it was away is there", func() bool { return other.knows("Dee") })
}

// TestTheSecondBoxOfASiteAdmittedByAnother: the founder admits a box to a site
// whose key it does not have. That site's first box wraps the key for it.
func TestTheSecondBoxOfASiteAdmittedByAnother(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b")
	b.is(func(id site.NodeID) bool { return id[0] >= 64 })
	b.up(a.invite("0002"))
	bob := b.user("201", "Bob")
	until(t, "the founder knows Bob", func() bool { return a.knows("Bob") })
	if a.mayRegister(bob, "Bob") {
		t.Fatal("the founder can read the secrets of another site")
	}

	// Its id is the lower one, so that the pair's rule who cares first names it.
	c := newBox(t, "c")
	c.is(func(id site.NodeID) bool { return id[0] < 64 })
	began := time.Now()
	c.start(a.invite("0002"))
	c.hear("ccnode: joined")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the second box waited %v for its site's key", took)
	}
	if c.n.member.Site != b.n.member.Site || c.n.member.First || c.n.member.Letter != "b" {
		t.Errorf("the second box's membership is %+v", c.n.member)
	}
	was, _ := b.n.state.Keys().Current()
	if got, ok := c.n.state.Keys().Current(); !ok || got != was {
		t.Error("the second box serves phones without its site's key")
	}
	until(t, "Bob's telephone is let in at the second box", func() bool { return c.mayRegister(bob, "Bob") })
	if c.mayRegister(bob, "Ana") {
		t.Error("a wrong password is let in")
	}
	if p, err := c.n.state.Password(bob.Devices[0].ID); err != nil || p != passwordOf("Bob") {
		t.Errorf("the second box reads Bob's password as %q, %v", p, err)
	}
	cat := c.user("202", "Cat")
	until(t, "the site's first box reads what the second one sealed", func() bool { return b.mayRegister(cat, "Cat") })
	until(t, "the founder knows Cat", func() bool { return a.knows("Cat") })
	if a.mayRegister(cat, "Cat") {
		t.Error("the founder can read the secrets of another site")
	}
}

// TestRefusedTokens: each refusal says exactly why, leaves nothing of a fleet in
// the folder, and the next try from the same folder succeeds.
func TestRefusedTokens(t *testing.T) {
	a := newBox(t, "a").up("")
	other := newBox(t, "other").up("")
	first := a.inviteFor("0002", "")
	newBox(t, "b").up(first.Token).down()

	c := newBox(t, "c")
	refused := func(name, token string, words ...string) {
		t.Helper()
		why := c.refused(token)
		if !contains(why, words...) {
			t.Errorf("%s: refused with %q, want %q in it", name, why, words)
		}
		if strings.Contains(why, token) && len(token) > 20 {
			t.Errorf("%s: the refusal repeats the secret token: %s", name, why)
		}
		if got := holds(t, c); len(got) > 0 {
			t.Errorf("%s: the refused box holds %q", name, got)
		}
	}

	refused("used twice", first.Token, "join: refused: the invite was used already", "ask for a new one")

	revoked := a.inviteFor("", "")
	if err := a.back.RevokeInvite(t.Context(), "boss", revoked.ID); err != nil {
		t.Fatal(err)
	}
	refused("revoked", revoked.Token, "join: refused: the invite was revoked by", "ask for a new one")

	short := a.inviteFor("", "1m")
	a.ahead.Add(int64(61 * time.Second))
	refused("expired", short.Token, "join: refused: the invite has expired at", "ask for a new one")

	// As whoever forges it: our fleet's node, the other fleet's name.
	parsed, err := invite.Parse(a.invite(""))
	if err != nil {
		t.Fatal(err)
	}
	forged, err := invite.New(invite.Params{ID: site.RecordID{1, 2, 3}, Fleet: other.n.book.Fleet(), Site: parsed.Site, Addrs: parsed.Addrs, Now: time.Now(),
		Inviter: a.n.id.Public(), Sign: a.n.id.Sign, Rand: a.n.rand})
	if err != nil {
		t.Fatal(err)
	}
	refused("wrong fleet", forged.String(), "is not of the invite's fleet", "nothing was revealed")

	// The box at the address is another one by now.
	moved, err := invite.New(invite.Params{ID: site.RecordID{1}, Fleet: other.n.book.Fleet(), Site: other.n.member.Site, Addrs: parsed.Addrs, Now: time.Now(),
		Inviter: other.n.id.Public(), Sign: other.n.id.Sign, Rand: a.n.rand})
	if err != nil {
		t.Fatal(err)
	}
	refused("another node at the address", moved.String(), "cannot be reached", a.meshAddr())

	good := a.invite("")
	mangled := []byte(good)
	mangled[len(mangled)/2] = map[bool]byte{true: 'B', false: 'A'}[mangled[len(mangled)/2] == 'A'] // tokens are in capitals, and read in either case
	refused("mangled", string(mangled), "join: the invite has a typing error or is cut off", "copy the whole token")
	refused("cut off", good[:len(good)-9], "join: the invite has a typing error or is cut off", "copy the whole token")
	refused("nonsense", "please", "join: this is not an invite")

	if u := a.back.Status(t.Context()); u.Fleet.Nodes != 2 {
		t.Errorf("the fleet has %d nodes after the refusals, want 2", u.Fleet.Nodes)
	}
	id := c.n.id.Node()
	c.up(good)
	if c.n.id.Node() != id {
		t.Error("the box is another one after the refusals")
	}
	until(t, "the founder has three nodes", func() bool { return a.back.Status(t.Context()).Fleet.Nodes == 3 })
}

// holds lists what of a fleet is in the folder of a box that does not run.
func holds(t *testing.T, b *box) (out []string) {
	t.Helper()
	for _, name := range []string{memberFile, rootFile} {
		if _, err := os.Stat(filepath.Join(b.cfg.Data, name)); err == nil {
			out = append(out, name)
		}
	}
	dir := filepath.Join(b.cfg.Data, "db")
	if _, err := os.Stat(dir); err != nil {
		return out
	}
	s, err := disk.OpenBadger(disk.Options{Dir: dir, Log: b.n.log})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(func(r disk.Reader) error {
		return r.Scan(nil, func(key, value []byte) error {
			out = append(out, string(bytes.Clone(key)))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
