package node

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/api"
)

func (b *box) members() int { return b.back.Status(b.t.Context()).Fleet.Nodes }

// TestRecover: the box that founded the fleet burns down, and nobody else may
// admit. The recovery sheet makes another box an issuer; what the burnt one
// admitted stays, the fleet grows again, and no disk ever has the root.
func TestRecover(t *testing.T) {
	ctx := t.Context()
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	c := newBox(t, "c").up(a.invite("0003"))
	sheet, err := a.back.Recovery(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.back.ConfirmRecovery(ctx, sheet.Words[0], sheet.Words[23]); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*box{a, b, c} {
		until(t, x.cfg.Name+" knows three nodes", func() bool { return x.members() == 3 })
	}
	until(t, "b knows what c is called", func() bool { return strings.Contains(b.n.nodeName(c.n.id.Node()), ".") })
	burnt := a.n.id.Node().String()
	a.down()

	var e *api.Error
	if _, err := b.back.CreateInvite(ctx, "boss", api.NewInvite{Site: "0004"}); err == nil {
		t.Fatal("a box without the right invites to another site")
	}
	if err := b.back.RevokeNode(ctx, "boss", burnt, []string{"all"}); err == nil {
		t.Fatal("a box without the right revokes one of another site")
	}

	// Wrong words say what is wrong.
	for _, bad := range []struct {
		says  string
		words func([]string) []string
	}{
		{"23 words", func(w []string) []string { return w[:23] }},
		{"word 7", func(w []string) []string { w[6] = "telefone"; return w }},
		{"two are swapped", func(w []string) []string { w[0], w[1], w[2] = w[1], w[2], w[0]; return w }},
	} {
		err := b.back.Recover(ctx, "boss", bad.words(append([]string{}, sheet.Words...)))
		if !errors.As(err, &e) || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("want %q: %v", bad.says, err)
		}
	}
	other := newBox(t, "other").up("")
	if err := other.back.Recover(ctx, "boss", sheet.Words); err == nil || !strings.Contains(err.Error(), "another fleet") {
		t.Errorf("the sheet of another fleet: %v", err)
	}
	other.down()
	if b.n.book.Issuers() == nil {
		t.Fatal("the burnt box is no issuer any more")
	}

	if err := b.back.Recover(ctx, "boss", []string{strings.ToUpper(strings.Join(sheet.Words, "  "))}); err != nil {
		t.Fatal(err)
	}
	// Who rests on the burnt box is for a person to say.
	if err := b.back.RevokeNode(ctx, "boss", burnt, nil); !errors.As(err, &e) || !strings.Contains(err.Error(), c.n.nodeName(c.n.id.Node())) {
		t.Fatalf("a box that admitted others was revoked without a word: %v", err)
	}
	if err := b.back.RevokeNode(ctx, "boss", burnt, []string{"somebody"}); err == nil {
		t.Fatal("somebody is kept")
	}
	if err := b.back.RevokeNode(ctx, "boss", burnt, []string{"all"}); err != nil {
		t.Fatal(err)
	}
	until(t, "c knows, and is a member", func() bool {
		return c.n.book.Revocation(a.n.id.Node()) != nil && c.members() == 2 && c.n.mesh.Stats(b.peer()).Linked
	})
	b.user("201", "Bea")
	c.user("201", "Chi")
	until(t, "they go on", func() bool { return b.knows("Chi") && c.knows("Bea") })

	// The fleet grows again, and has two issuers.
	d := newBox(t, "d").up(b.invite("0004"))
	until(t, "all know the new box", func() bool { return c.members() == 3 && d.members() == 3 && d.knows("Chi") })
	if err := c.back.RaiseNode(ctx, "boss", d.n.id.Node().String(), api.NodeRights{Admit: true}); err == nil {
		t.Error("a box gives what it has not")
	}
	if err := b.back.RaiseNode(ctx, "boss", c.n.id.Node().String(), api.NodeRights{Admit: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "c is an issuer, and writes as one", func() bool {
		g, err := c.n.book.Member(c.n.id.Node())
		if err != nil || len(c.n.book.Issuers()) != 2 || len(d.n.book.Issuers()) != 2 {
			return false
		}
		chain, err := c.n.book.Chain(g)
		return err == nil && bytes.Equal(c.n.proof(), chain.Encode())
	})
	e2 := newBox(t, "e").up(c.invite("0005"))
	until(t, "d knows whom c admitted", func() bool { return d.members() == 4 && e2.members() == 4 })

	// A box that was admitted by the recovered one writes under its new rights
	// after a restart, too; and the root is on no disk.
	c.down()
	c.up("")
	c.user("202", "Cleo")
	until(t, "c is believed", func() bool { return d.knows("Cleo") && e2.knows("Cleo") })
	for _, x := range []*box{b, c, d} {
		if _, err := os.Stat(x.n.path(rootFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has the root key on its disk: %v", x.cfg.Name, err)
		}
	}
}

// TestABoxDoesNotShutItselfOut: whoever revokes the box that admitted it has to
// keep itself.
func TestABoxDoesNotShutItselfOut(t *testing.T) {
	ctx := t.Context()
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite(""))
	c := newBox(t, "c").up(a.invite("0002"))
	for _, x := range []*box{b, c} {
		until(t, x.cfg.Name+" knows three nodes", func() bool { return x.members() == 3 })
	}
	id := a.n.id.Node().String()
	for _, keep := range [][]string{nil, {"none"}, {c.n.id.Node().String()}} {
		if err := b.back.RevokeNode(ctx, "boss", id, keep); err == nil {
			t.Fatalf("with %q the box shut itself out", keep)
		}
	}
	if err := b.back.RevokeNode(ctx, "boss", id, []string{b.n.nodeName(b.n.id.Node())}); err != nil {
		t.Fatal(err)
	}
	until(t, "only b is left", func() bool { return b.members() == 1 })
	if _, err := b.n.book.Member(c.n.id.Node()); err == nil {
		t.Error("c is a member still")
	}
}
