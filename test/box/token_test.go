package box

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh/invite"
)

func (b *box) invite(args ...string) api.Invite {
	b.t.Helper()
	return as[api.Invite](b, append([]string{"invite", "create"}, args...)...)
}

// expired makes a token as the box itself made it two hours ago, good for one.
func (b *box) expired() string {
	b.t.Helper()
	seed, err := os.ReadFile(filepath.Join(b.data, "node.key"))
	if err != nil {
		b.t.Fatal(err)
	}
	id, err := trust.IdentityFromSeed(seed)
	if err != nil {
		b.t.Fatal(err)
	}
	var m struct {
		FleetID string
		Site    site.ID
	}
	text, err := os.ReadFile(filepath.Join(b.data, "member.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		b.t.Fatal(err)
	}
	fleet, err := hex.DecodeString(m.FleetID)
	if err != nil {
		b.t.Fatal(err)
	}
	t, err := invite.New(invite.Params{ID: [10]byte{1}, Fleet: [32]byte(fleet), Site: m.Site, Addrs: []string{b.ip.String() + ":5870"},
		Now: time.Now().Add(-2 * time.Hour), Life: time.Hour, Inviter: id.Public(), Sign: id.Sign, Rand: rand.Reader})
	if err != nil {
		b.t.Fatal(err)
	}
	return t.String()
}

// TestWrongTokens: each is refused with its own reason, the new box exits with
// 1 and stays nobody, and the inviting node goes on.
func TestWrongTokens(t *testing.T) {
	a := newBox(t)
	a.up("--domain", "shops.example")
	other := newBox(t)
	other.up("--domain", "others.example")

	good := a.invite("--site", "0002", "--name", "Lyon").Token
	expired := a.expired()
	revoked := a.invite("--site", "0004")
	a.must("invite", "revoke", revoked.ID.String())
	used := a.invite("--site", "0005")
	first := newBox(t)
	first.up("--join", used.Token)
	mixed := other.invite("--site", "0009").Token
	typo := []byte(good)
	at := len(typo) / 2
	for typo[at] == '-' {
		at++
	}
	if typo[at]|0x20 == 'k' {
		typo[at] = 'm'
	} else {
		typo[at] = 'k'
	}
	for _, c := range []struct{ name, token, says string }{
		{"nonsense", "nonsense", "not an invite|ccnode invite create"},
		{"truncated", good[:len(good)-9], "cut off|copy the whole token"},
		{"a typing error", string(typo), "copy the whole token"},
		{"two glued together", good + good, "copy the whole token"},
		{"expired", expired, "expired"},
		{"revoked", revoked.Token, "revoked"},
		{"used by another box", used.Token, "used already"},
		{"a file's name", "/etc/hostname", "not an invite"},
		{"empty quotes", "\"\"", "not an invite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			code, said := b.refuses("--join", c.token)
			if code != refused {
				t.Errorf("exit %d", code)
			}
			last := said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]
			for _, part := range strings.Split(c.says, "|") {
				has(t, "the last line", last, part)
			}
			if _, err := os.Stat(filepath.Join(b.data, "member.json")); err == nil {
				t.Error("the refused box thinks it is a member")
			}
			// The folder is good for a start that works: nothing has to be deleted by hand.
			if c.name == "truncated" {
				b.up("--join", good)
				if s := b.status(); s.Node.SiteCode != "0002" {
					t.Errorf("joined as %+v", s.Node)
				}
			}
		})
	}
	// A good token at the wrong moment: the inviting box is off.
	t.Run("nobody there", func(t *testing.T) {
		other.kill()
		b := newBox(t)
		begun := time.Now()
		code, said := b.refuses("--join", mixed)
		if code != refused {
			t.Errorf("exit %d", code)
		}
		has(t, "the refusal", said, "cannot be reached", other.ip.String(), "is it running")
		if took := time.Since(begun); took > 35*time.Second {
			t.Errorf("it gave up after %v", took)
		}
	})
	// A member with a token goes on as what it is.
	t.Run("a member", func(t *testing.T) {
		first.term()
		first.up("--join", good)
		has(t, "the member", first.out.String(), "member already")
		if s := first.status(); s.Node.SiteCode != "0005" {
			t.Errorf("it moved to %s", s.Node.SiteCode)
		}
	})
	// A token of another fleet whose node was moved to our address: the key does not fit.
	t.Run("another fleet's node at the address", func(t *testing.T) {
		imp := boxIn(t, filepath.Join(folder(t), "d"))
		imp.ip = other.ip
		imp.up("--domain", "third.example")
		b := newBox(t)
		code, said := b.refuses("--join", mixed)
		if code != refused {
			t.Errorf("exit %d", code)
		}
		has(t, "the refusal", said, "cannot be reached", other.ip.String())
	})
	s := a.status()
	if s.Fleet.Nodes != 3 { // itself, first, and the one that joined with the good token
		t.Errorf("the fleet has %d nodes, want 3", s.Fleet.Nodes)
	}
	states := map[string]string{}
	for _, i := range as[[]api.Invite](a, "invite", "list") {
		states[i.Site] = i.State
	}
	if want := "map[0002:redeemed 0004:revoked 0005:redeemed]"; fmt.Sprint(states) != want {
		t.Errorf("invites are %v, want %s", states, want)
	}
}
