package box

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// saying finds what says a text to all boxes: the entry of the directory.
func saying(hs []api.HeldDetail, text string) *api.HeldDetail {
	for i := range hs {
		if hs[i].Scope == "fleet" && len(hs[i].Writes) == 1 && strings.Contains(strings.Join(hs[i].Writes, "; "), text) {
			return &hs[i]
		}
	}
	return nil
}

// TestHeldChanges: a box admitted another one while it was cut off from its pair,
// and both died. The pair reads the other one's disk: its changes wait for a
// person, then for the grant of their author, which nobody here knows. Each says
// so, none stops anything, and all of it is judged anew when the grant is let in.
func TestHeldChanges(t *testing.T) {
	a, b := pairOf(t)
	same(t, a, b, 10*time.Second)
	b.kill()
	c := newBox(t)
	c.up("--join", a.invite("--site", "0002").Token)
	if _, err := ask[api.User](c, "POST", "/users", api.NewUser{Number: "201", Name: "Chi was here"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask[api.User](c, "POST", "/users", api.NewUser{Number: "202", Name: "Cid was here"}); err != nil {
		t.Fatal(err)
	}
	author := c.status().Node.ID
	others := 0
	a.kill()
	c.kill()
	b.up()
	if out := b.must("held", "list"); !strings.Contains(out, "nothing waits") {
		t.Fatalf("held list of a box that holds nothing: %s", out)
	}
	as[api.Salvaged](b, "node", "salvage", c.data)
	held := as[[]api.HeldDetail](b, "held", "list")
	chi, cid := saying(held, "Chi was here"), saying(held, "Cid was here")
	if chi == nil || cid == nil || chi.Why != "person" || !chi.Alone || chi.Since.IsZero() || chi.From != "" || !strings.Contains(chi.Do, "node accept") {
		t.Fatalf("of the salvaged disk are held: %+v", held)
	}
	st := b.status()
	if st.Waiting != len(held) || st.Only.Held != len(held) {
		t.Fatalf("status counts %d that wait, %d only here; the list has %d", st.Waiting, st.Only.Held, len(held))
	}
	// A retry decides nothing for a person.
	if v := as[api.HeldVerdict](b, "held", "retry", chi.ID[:12]); v.Outcome != "held" {
		t.Fatalf("%+v", v)
	}
	b.must("node", "accept", chi.ID, cid.ID)
	for _, h := range held { // the same in other words
		if h.ID != cid.ID && h.Scope == "fleet" && strings.Contains(strings.Join(h.Writes, ""), "Cid was here") {
			b.must("held", "drop", h.ID, "--yes")
			others++
		}
	}
	for range 2 {
		h := as[api.HeldDetail](b, "held", "show", chi.ID[:8])
		if h.Why != "author" || h.Node != author || !strings.Contains(strings.Join(h.Writes, ""), "Chi was here") {
			t.Fatalf("nobody knows who wrote it: %+v", h)
		}
		if v := as[api.HeldVerdict](b, "held", "retry", chi.ID); v.Outcome != "held" || v.Reason == "" {
			t.Fatalf("%+v", v)
		}
	}
	has(t, "held show", b.must("held", "show", chi.ID), "author", author, "came", "by hand", "waits for", "Chi was here", "only here", "do")
	b.user("203") // nothing else waits

	// One is dropped: not by accident, on record, and over a restart.
	if x := b.cli("held", "drop", cid.ID); x.code == 0 || !strings.Contains(x.err, "--yes") || !strings.Contains(x.err, "Cid was here") {
		t.Fatalf("dropped without a question: %d %s", x.code, x.err)
	}
	b.must("held", "drop", cid.ID[:10], "--yes")
	if x := b.cli("held", "retry", cid.ID); x.code == 0 {
		t.Fatal("a dropped change waits")
	}
	b.kill()
	b.up()
	ds := as[[]api.DroppedChange](b, "held", "list", "--dropped")
	if len(ds) != 1+others || ds[0].ID != cid.ID || ds[0].By == "" || ds[0].At.IsZero() || ds[0].Node != author || ds[0].Reason == "" || !strings.Contains(strings.Join(ds[0].Writes, ""), "Cid was here") {
		t.Fatalf("on record: %+v", ds)
	}
	if h := as[api.HeldDetail](b, "held", "show", chi.ID); h.Why != "author" {
		t.Fatalf("after a restart: %+v", h)
	}

	// The grant comes: nobody has to do anything more.
	held = as[[]api.HeldDetail](b, "held", "list")
	slices.SortFunc(held, func(x, y api.HeldDetail) int { return x.At.Compare(y.At) })
	for _, h := range held {
		if h.Why == "person" {
			b.must("node", "accept", h.ID)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if _, err := ask[api.User](b, "GET", "/users/0002201", nil); err != nil {
			return err
		}
		if n := b.status().Waiting; n != 0 {
			return fmt.Errorf("%d wait: %+v", n, b.status().Held)
		}
		return nil
	})
	if _, err := ask[api.User](b, "GET", "/users/0002202", nil); err == nil {
		t.Error("what was dropped is here")
	}
	for want, args := range map[string][]string{
		"is held":      {"held", "show", "00112233"},
		"nothing more": {"held", "list", "x"},
	} {
		if x := b.cli(args...); x.code == 0 || !strings.Contains(x.err, want) {
			t.Errorf("ccnode %s: exit %d, %q; want %q", strings.Join(args, " "), x.code, x.err, want)
		}
	}
}
