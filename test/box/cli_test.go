package box

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// leave lets one phone leave a message for a user none of whose phones rings.
func (b *box) leave(from api.User, to string, seconds float64) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	p := b.phone(from, from.Devices[0].Password)
	if err := p.Register(ctx); err != nil {
		b.t.Fatal(err)
	}
	c, err := p.Dial(ctx, to)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.HearsSilence(ctx, 400*time.Millisecond); err != nil { // the greeting and its tone are over
		b.t.Fatal(err)
	}
	time.Sleep(time.Duration(seconds * float64(time.Second))) // the phone's tone is the message
	if err := c.Hangup(ctx); err != nil {
		b.t.Fatal(err)
	}
	if err := p.Unregister(ctx); err != nil {
		b.t.Fatal(err)
	}
	p.Close()
}

// TestEveryCommand runs each command once for people and once for scripts.
func TestEveryCommand(t *testing.T) {
	b, pair := pairOf(t)
	// table runs a command as a person would; what it prints holds every part.
	table := func(parts, args string) {
		t.Helper()
		a := b.cli(strings.Fields(args)...)
		if a.code != 0 || a.err != "" {
			t.Errorf("ccnode %s: exit %d: %s", args, a.code, a.err)
		}
		has(t, "ccnode "+args, a.out, strings.Split(parts, "|")...)
		if json.Valid([]byte(a.out)) {
			t.Errorf("ccnode %s prints JSON to people", args)
		}
	}
	words := strings.Fields

	// users
	table("user|0001201|password|servers|"+b.ip.String()+":5060|realm", "user create 201 --name Ana --pin 2468")
	u := as[api.User](b, words("user create 202 --name Bob --password longenough --e164 +33472001202")...)
	if u.Number != "0001202" || u.Name != "Bob" || u.E164 != "+33472001202" || u.Devices[0].Password == "" || len(u.Devices[0].Servers) != 2 {
		t.Errorf("user create: %+v", u)
	}
	table("NUMBER|0001201|Ana|0001202|Bob", "user list")
	table("Ana|site|0001|voicemail", "user get 201")
	if got := as[api.User](b, "user", "get", "Bob"); got.ID != u.ID || got.Devices[0].Password != "" || got.ETag == "" {
		t.Errorf("user get: %+v", got)
	}
	table("forward busy|201|rings|25 s|do not disturb", "user set 202 --forward-busy 201 --ring 25 --dnd --always-pin")
	if got := as[api.User](b, words("user set 202 --forward-busy= --dnd=false --name Bobby")...); got.ForwardBusy != "" || got.DoNotDisturb || got.Name != "Bobby" || got.RingSeconds != 25 || !got.AlwaysPIN {
		t.Errorf("user set: %+v", got)
	}
	table("disabled", "user disable 202")
	if got := as[api.User](b, "user", "enable", "202"); got.Disabled {
		t.Errorf("user enable: %+v", got)
	}
	table("deleted", "user delete 202")
	if us := as[[]api.User](b, "user", "list"); len(us) != 1 {
		t.Errorf("user list after a delete: %+v", us)
	}
	if us := as[[]api.User](b, "user", "list", "--deleted"); len(us) != 2 {
		t.Errorf("user list --deleted: %+v", us)
	}
	table("ok", "user restore "+u.ID.String())
	if got := as[api.User](b, "user", "disable", "202"); !got.Disabled {
		t.Errorf("user disable: %+v", got)
	}
	table("ok", "user enable 202")
	if got := as[api.User](b, "user", "delete", "202"); !got.Deleted {
		t.Errorf("user delete: %+v", got)
	}
	if got := as[api.User](b, "user", "restore", u.ID.String()); got.Deleted {
		t.Errorf("user restore: %+v", got)
	}

	// where, route, calls
	p := b.phone(u, "longenough")
	if err := p.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	table("0001202|phone|"+p.Addr().String(), "where 202")
	if l := as[api.Location](b, "where", "202"); len(l.Contacts) != 1 || l.Contacts[0].Transport != "udp" || !l.AsOf.Here {
		t.Errorf("where: %+v", l)
	}
	table("202", "route test 201 202")
	if r := as[api.RouteTest](b, words("route test 201 202")...); r.From != "201" || r.To != "202" || len(r.Steps) == 0 {
		t.Errorf("route test: %+v", r)
	}
	go func() { // ends with the phone
		if c := <-p.Incoming(); c != nil {
			_ = c.Answer(t.Context())
		}
	}()
	caller := b.user("203")
	q := b.phone(caller, caller.Devices[0].Password)
	if err := q.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := q.Dial(t.Context(), "202")
	if err != nil {
		t.Fatal(err)
	}
	table("FROM|0001203|0001202|in call", "calls")
	if cs := as[[]api.Call](b, "calls"); len(cs) != 1 || cs[0].State != "in call" || cs[0].Answered == nil || cs[0].Chain == "" {
		t.Errorf("calls: %+v", cs)
	}
	if err := c.Hangup(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, func() error {
		if cs := as[[]api.Call](b, "calls", "--since", "1m"); len(cs) != 1 || cs[0].State != "ended" || cs[0].Ended == nil || cs[0].Cause != "normal" {
			return fmt.Errorf("calls --since: %+v", cs)
		}
		return nil
	})
	table("ended|normal", "calls --since 1m")

	// voicemail
	b.leave(caller, "201", 1.2)
	var ms []api.Message
	eventually(t, 10*time.Second, func() error {
		if ms = as[[]api.Message](b, "voicemail", "list", "201"); len(ms) != 1 {
			return fmt.Errorf("voicemail list: %+v", ms)
		}
		return nil
	})
	m := ms[0]
	if m.From != "0001203" && m.From != "203" || m.Heard || m.Audio != "here" || m.Seconds < 1 || m.LeftAt != "0001" {
		t.Errorf("the message: %+v", m)
	}
	table("FROM|203|new|here", "voicemail list 201")
	wav := filepath.Join(folder(t), "m.wav")
	table("", "voicemail play 201 "+m.ID.String()+" --out "+wav)
	file, err := os.ReadFile(wav)
	if err != nil || !bytes.HasPrefix(file, []byte("RIFF")) || len(file) < 8000 {
		t.Errorf("voicemail play --out: %d bytes, %v", len(file), err)
	}
	if out := b.must("voicemail", "play", "201", m.ID.String(), "--out", "-"); out != string(file) {
		t.Errorf("voicemail play --out -: %d bytes, %d in the file", len(out), len(file))
	}
	table("trash|"+m.ID.String(), "voicemail delete 201 "+m.ID.String())
	if ms := as[[]api.Message](b, "voicemail", "list", "201"); len(ms) != 1 || ms[0].Folder != "trash" {
		t.Errorf("after voicemail delete: %+v", ms)
	}
	if d := as[map[string]string](b, "voicemail", "restore", "201", m.ID.String()); d["done"] == "" {
		t.Errorf("voicemail restore: %v", d)
	}
	if d := as[map[string]string](b, "voicemail", "delete", "201", m.ID.String()); d["done"] == "" {
		t.Errorf("voicemail delete: %v", d)
	}
	table("restored", "voicemail restore 201 "+m.ID.String())
	if ms := as[[]api.Message](b, "voicemail", "list", "201"); len(ms) != 1 || ms[0].Folder != "inbox" {
		t.Errorf("after voicemail restore: %+v", ms)
	}

	// joining
	table("token|CCNODE1-|for|site 0002|next|ccnode up --join|id", "invite create --site 0002 --name Lyon --expires 2h")
	i := as[api.Invite](b, words("invite create --site 0003")...)
	if i.State != "open" || i.Site != "0003" || i.Token == "" || time.Until(i.Expires) < 23*time.Hour {
		t.Errorf("invite create: %+v", i)
	}
	table("ID|SITE|0002|0003|open", "invite list")
	table("revoked", "invite revoke "+i.ID.String())
	states := map[string]int{}
	for _, i := range as[[]api.Invite](b, "invite", "list") {
		states[i.State]++
		if i.Token != "" {
			t.Error("a token is shown again")
		}
	}
	if states["open"] != 1 || states["revoked"] != 1 || states["redeemed"] != 1 {
		t.Errorf("invite list: %v", states)
	}
	a := b.cli("invite", "create", "--site", "0002", "--qr")
	if !strings.Contains(a.err, "█") || !strings.Contains(a.out, "CCNODE1-") {
		t.Errorf("invite create --qr: %q %q", a.out, a.err)
	}
	table("CODE", "pending list")
	if ps := as[[]api.Pending](b, "pending", "list"); ps == nil || len(ps) != 0 {
		t.Errorf("pending list: %+v", ps)
	}

	// mesh
	table("NAME|b.s0001.|"+pair.ip.String(), "mesh peers")
	if ps := as[[]api.PeerStatus](b, "mesh", "peers"); len(ps) != 1 || ps[0].SiteCode != "0001" || ps[0].In == 0 {
		t.Errorf("mesh peers: %+v", ps)
	}
	table("PEER|all", "mesh bytes")
	if n := as[api.Bytes](b, "mesh", "bytes", "--over", "200ms"); len(n.Peers) != 1 || n.Until.Sub(n.Since) < 150*time.Millisecond {
		t.Errorf("mesh bytes: %+v", n)
	}
	table("asked every peer", "mesh check")
	if d := as[map[string]string](b, "mesh", "check"); d["done"] == "" {
		t.Errorf("mesh check: %v", d)
	}

	// recovery
	words24 := as[api.Recovery](b, "recovery", "show").Words
	if len(words24) != 24 {
		t.Fatalf("recovery show: %d words", len(words24))
	}
	table(words24[0]+"|"+words24[23], "recovery show")
	table("forgotten", "recovery confirm "+words24[0]+" "+words24[23])
	if a := b.cli("recovery", "show"); a.code != notFound {
		t.Errorf("recovery show after confirm: exit %d %s", a.code, a.err)
	}
	if _, err := os.Stat(filepath.Join(b.data, "root.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the root key is still there: %v", err)
	}

	if a := b.cli("recover"); a.code == 0 {
		t.Error("recover without words")
	}
	if a := b.input("zoo zoo zoo\n", "recover"); a.code != refused || !strings.Contains(a.err, "24") {
		t.Errorf("recover with three words: exit %d %s", a.code, a.err)
	}
	if a := b.input(strings.Join(words24[:12], " ")+"\n"+strings.Join(words24[12:], " ")+"\n", "recover"); a.code != 0 || !strings.Contains(a.out, "may admit") {
		t.Errorf("recover: exit %d %s%s", a.code, a.out, a.err)
	}

	// status, and the pair shut out
	table("me|a.s0001.|pair|b.s0001.|fleet|phones|owed|only here|scope", "status")
	s := as[api.Status](b, "status")
	if s.Pair == nil || s.Fleet.Nodes != 2 || s.Users != 3 || s.Node.Cert == "" || s.Node.Memory < 1<<20 || s.Node.DiskFree == 0 || len(s.Scopes) != 3 {
		t.Errorf("status: %+v", s)
	}
	name := s.Pair.Name
	id := s.Pair.Node
	if a := b.cli("secrets", "rotate", "--held-by", id, "--yes"); a.code == 0 || !strings.Contains(a.err, "node revoke") {
		t.Errorf("secrets rotate of a member: exit %d %s", a.code, a.err)
	}
	table("given", "node raise --admit "+name)
	table("the key in use is among them|device|password", "node revoke --dry-run "+name)
	table("revoked|"+name+"|device|password", "node revoke "+name)
	table("nothing replaced yet|device|password|--yes", "secrets rotate --held-by "+id)
	table("nothing replaced yet|user|PIN", "secrets rotate --dry-run --held-by "+id)
	table("replaced|device|password|Ana|user|PIN", "secrets rotate --yes --held-by "+id)
	if x := as[api.RotatedSecrets](b, "secrets", "rotate", "--yes", "--held-by", id); len(x.Replaced)+len(x.Left) != 0 {
		t.Errorf("secrets rotate, again: %+v", x)
	}
	eventually(t, 5*time.Second, func() error {
		if s := b.status(); s.Fleet.Nodes != 1 {
			return fmt.Errorf("the fleet has %d nodes", s.Fleet.Nodes)
		}
		return nil
	})
}

// TestAStaleEditIsKept: an edit that did not see another one is neither refused
// nor does it silently win: both stay, and somebody can settle it.
func TestAStaleEditIsKept(t *testing.T) {
	b := newBox(t)
	b.up()
	b.user("201")
	seen, err := ask[api.User](b, "GET", "/users/201", nil)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name, etag string) api.User {
		t.Helper()
		var u api.User
		if err := b.client.Do(t.Context(), "PATCH", "/users/201", api.UserPatch{Name: &name}, &u, etag); err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := set("Anna", seen.ETag)
	if ms := as[[]api.Merge](b, "merges"); len(ms) != 0 {
		t.Errorf("one edit made a merge: %+v", ms)
	}
	set("Hannah", seen.ETag) // did not see Anna
	ms := as[[]api.Merge](b, "merges", "list")
	if len(ms) != 1 || ms[0].Kind != "edit" || ms[0].Field != "name" || len(ms[0].Sides) != 2 {
		t.Fatalf("merges: %+v", ms)
	}
	has(t, "merges", b.must("merges"), "MERGE", "Anna", "Hannah", "in force", "not in force", "keep:", "console", "the newest counts", "was User 201")
	if s := b.status(); s.Merges != 1 {
		t.Errorf("status counts %d merges", s.Merges)
	}
	for _, side := range ms[0].Sides {
		if side.Value == "Anna" {
			b.must("merges", "keep", ms[0].ID, side.Version)
		}
	}
	if u, _ := ask[api.User](b, "GET", "/users/201", nil); u.Name != "Anna" {
		t.Errorf("kept Anna, got %q", u.Name)
	}
	if ms := as[[]api.Merge](b, "merges"); len(ms) != 0 {
		t.Errorf("settled, and still open: %+v", ms)
	}
	if ms := as[[]api.Merge](b, "merges", "--closed"); len(ms) != 1 || !ms[0].Closed || ms[0].ClosedBy == nil || ms[0].ClosedBy.By != "console" || ms[0].ClosedBy.Value != "Anna" {
		t.Errorf("merges --closed: %+v", ms)
	}
	// history and undo
	has(t, "history 201", b.must("history", "201"), "CHANGE", "name", "Hannah", "Anna", "in force", "overwritten", "console", "user 0001201", "since")
	h := as[api.History](b, "history", "user", "201")
	if h.Kind != "user" || h.Since.IsZero() || len(h.Changes) < 4 || h.Changes[0].Fields[0].Old == nil || *h.Changes[0].Fields[0].Old != "Hannah" || h.Changes[0].Fields[0].New != "Anna" {
		t.Errorf("history: %+v", h)
	}
	has(t, "history", b.must("history"), "user 0001201 Anna: name", "the newest changes")
	has(t, "history site", b.must("history", "site"), "code", "(none)", "0001")
	if a := b.cli("undo", h.Changes[1].ID); a.code != refused || !strings.Contains(a.err, "changed since") || !strings.Contains(a.err, "--yes") {
		t.Errorf("undo over a younger edit: %+v", a)
	}
	has(t, "undo", b.must("undo", h.Changes[0].ID), "undone", "name", "was Anna", "is Hannah")
	if u, _ := ask[api.User](b, "GET", "/users/201", nil); u.Name != "Hannah" {
		t.Errorf("undone: %q", u.Name)
	}
	if a := b.cli("undo", "--yes", h.Changes[0].ID); a.code != refused || !strings.Contains(a.err, "nothing left") {
		t.Errorf("undone twice: %+v", a)
	}
	// events: one follows while another edits; a later one goes on in the middle
	follow := make(chan answer)
	go func() { follow <- b.cli("events", "--count", "2", "--only", "record", "-o", "json") }()
	var heard answer
	for n := 0; heard.out == ""; n++ { // the first edits may be before it follows
		b.must("user", "set", "201", "--name", fmt.Sprint("Anna", n))
		select {
		case heard = <-follow:
		case <-time.After(300 * time.Millisecond):
		}
	}
	var es []api.Event
	for l := range strings.Lines(heard.out) {
		var e api.Event
		decode(t, l, &e)
		es = append(es, e)
	}
	if heard.code != 0 || len(es) != 3 || es[0].Kind != "hello" || es[1].Record == nil || es[1].Record.Fields[0] != "name" || es[2].ID <= es[1].ID {
		t.Errorf("events: %+v %+v", heard, es)
	} else {
		has(t, "events", b.must("events", "--count", "1", "--after", fmt.Sprint(es[1].ID)), "hello", "record", "user 0001201 Anna", "name")
		has(t, "events of an earlier start", b.must("events", "--count", "1", "--after", "5"), "missed", "read again")
	}
	b.must("user", "set", "201", "--name", "Anna")
	// A wrong token is refused rather than taken for "saw nothing".
	var e *api.Error
	name := "X"
	if err := b.client.Do(t.Context(), "PATCH", "/users/201", api.UserPatch{Name: &name}, &api.User{}, first.ETag+"x"); !errors.As(err, &e) || e.Status != 422 || !strings.Contains(e.What, "ETag") {
		t.Errorf("a damaged If-Match: %v", err)
	}
}

// TestFromAnotherMachine: HTTPS with the token, and the certificate known by
// its fingerprint; without one of them nothing is told and no token is sent.
func TestFromAnotherMachine(t *testing.T) {
	b := newBox(t)
	b.up()
	u := b.user("201")
	token := strings.TrimSpace(string(b.read("admin.token")))
	at := "https://" + b.ip.String() + ":8443"
	print := b.status().Node.Cert
	remote := func(token, print string, args ...string) answer {
		t.Helper()
		return run(t, append([]string{"--api", at, "--token", token, "--fingerprint", print}, args...)...)
	}
	a := remote(token, print, "user", "get", "201", "-o", "json")
	var got api.User
	if decode(t, a.out, &got); a.code != 0 || got.ID != u.ID {
		t.Errorf("exit %d: %s", a.code, a.err)
	}
	if a := remote(token, strings.ToUpper(print), "user", "create", "202"); a.code != 0 {
		t.Errorf("exit %d: %s", a.code, a.err)
	}
	wrong := strings.Repeat("0", 64)
	for _, c := range []struct{ name, token, print, says string }{
		{"no token", "", print, "admin.token"},
		{"wrong token", "x" + token[1:], print, "admin.token"},
		{"half a token", token[:20], print, "admin.token"},
		{"wrong fingerprint", token, wrong, "not the one in --fingerprint"},
		{"no fingerprint", token, "", "--fingerprint"},
	} {
		a := remote(c.token, c.print, "status")
		if a.code != refused {
			t.Errorf("%s: exit %d: %s", c.name, a.code, a.out)
		}
		has(t, c.name, a.err, c.says)
		if strings.Contains(a.err, token) {
			t.Errorf("%s: the token is in the message", c.name)
		}
	}
	// The root's words never leave the box.
	if a := remote(token, print, "recovery", "show"); a.code != refused || !strings.Contains(a.err, "on the box itself") {
		t.Errorf("recovery over the network: exit %d: %s%s", a.code, a.out, a.err)
	}
	// Plain HTTP to the port is told what it is.
	if a := run(t, "--api", "http://"+b.ip.String()+":8443", "--token", token, "status"); a.code != refused {
		t.Errorf("plain HTTP: exit %d: %s", a.code, a.err)
	}
	// The certificate stays through a restart, so that scripts go on working.
	b.term()
	b.up()
	if a := remote(token, print, "status"); a.code != 0 {
		t.Errorf("after a restart: exit %d: %s", a.code, a.err)
	}
}
