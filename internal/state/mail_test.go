package state

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

var ctx = context.Background()

func message(n byte, to User) site.Message {
	return site.Message{ID: site.RecordID{n}, Mailbox: to.ID, Site: to.Site, From: "80002201", FromName: "Bea",
		At: time.UnixMilli(1_800_000_000_000 + int64(n)), Duration: 3 * time.Second, Audio: site.BlobRef{n}, Size: 24000}
}

func TestAMessageLeftAtAnotherSiteLightsTheLampAtHome(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	var lit []site.RecordID
	a2.OnMailbox(func(m site.RecordID) { lit = append(lit, m) })
	for range 2 { // the same message twice is one
		w.must(b.Mailboxes().Deliver(ctx, message(1, u)))
	}
	m := message(2, u)
	m.FromName = "x" + strings.Repeat("é", 90) // cut in the middle of one
	m.Site = site.ID{}                         // the directory knows the home
	w.must(b.Mailboxes().Deliver(ctx, m))
	if b.Summary(u.ID) != (site.Summary{}) {
		t.Error("a site that does not hold the mailbox has a lamp")
	}
	w.heal()
	for _, x := range []*box{a1, a2} {
		if got := x.Summary(u.ID); got != (site.Summary{New: 2}) {
			t.Errorf("lamp %+v", got)
		}
		ms := x.Mailboxes().Messages(u.ID)
		if len(ms) != 2 || ms[0].FromName != "Bea" || ms[0].LeftAt != siteB || ms[0].Site != siteA || ms[0].Folder != site.Inbox || len(x.Blobs()) != 2 {
			t.Errorf("messages: %+v", ms)
		}
	}
	if len(lit) == 0 || lit[0] != u.ID {
		t.Error("nobody was told")
	}
	if ms := a2.MessagesWith(site.BlobRef{2}); len(ms) != 1 || ms[0].ID != m.ID {
		t.Errorf("messages with that audio: %+v", ms)
	}
	box := a1.Mailboxes()
	w.must(box.MarkHeard(ctx, site.RecordID{1}))
	w.must(box.Delete(ctx, site.RecordID{2}))
	w.heal()
	if got := a2.Summary(u.ID); got != (site.Summary{Old: 1}) {
		t.Errorf("lamp %+v", got)
	}
	if err := b.Mailboxes().MarkHeard(ctx, site.RecordID{1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("marked at another site: %v", err)
	}
}

func TestHeardStaysAndSavedBeatsDeleted(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.must(a1.Mailboxes().Deliver(ctx, message(1, u)))
	w.must(a1.Mailboxes().Deliver(ctx, message(2, u)))
	w.heal()
	one, two := site.RecordID{1}, site.RecordID{2}
	w.must(a1.Mailboxes().MarkHeard(ctx, one)) // heard here, deleted there
	w.must(a2.Mailboxes().Delete(ctx, one))
	w.must(a1.Mailboxes().Move(ctx, two, site.Saved)) // saved here, deleted later there
	w.tick(time.Minute)
	w.must(a2.Mailboxes().Delete(ctx, two))
	w.heal()
	for _, x := range []*box{a1, a2} {
		m1, _ := x.Message(one)
		m2, _ := x.Message(two)
		if !m1.Heard || m1.Folder != site.Trash || m2.Folder != site.Saved {
			t.Errorf("%+v %+v", m1, m2)
		}
		if x.Summary(u.ID) != (site.Summary{New: 1}) {
			t.Errorf("lamp %+v", x.Summary(u.ID))
		}
	}
	w.must(a1.MoveMessage(ctx, "Ann", one, site.Inbox)) // restored
	if m, _ := a1.Message(one); m.Folder != site.Inbox {
		t.Error("not restored")
	}
	if err := a1.MoveMessage(ctx, "Ann", one, "elsewhere"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	w.must(a1.Mailboxes().Delete(ctx, one))
	w.tick(Keep + time.Hour)
	n, err := a1.PurgeOld(ctx)
	w.must(err)
	w.heal()
	if _, ok := a2.Message(one); ok || n != 1 || len(a2.Blobs()) != 1 || len(a2.MessagesWith(site.BlobRef{1})) != 0 {
		t.Errorf("purged %d, still there", n)
	}
}

func TestGreetingAndPIN(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	ref := site.BlobRef{9}
	box := a1.Mailboxes()
	w.must(box.SetGreeting(ctx, u.ID, "busy", ref))
	w.must(box.SetPIN(ctx, u.ID, "998877"))
	w.heal()
	far := a2.Mailboxes()
	if got, ok := far.Greeting(u.ID, "busy"); !ok || got != ref || len(a2.Blobs()) != 1 {
		t.Error("no greeting on the other node")
	}
	if _, ok := far.Greeting(u.ID, ""); ok {
		t.Error("a greeting for another reason")
	}
	w.must(far.SetGreeting(ctx, u.ID, "busy", site.BlobRef{}))
	if _, ok := far.Greeting(u.ID, "busy"); ok {
		t.Error("the greeting was not removed")
	}
	if ok, why := far.CheckPIN(ctx, u.ID, "998877"); !ok {
		t.Error(why)
	}
	if ok, _ := far.CheckPIN(ctx, u.ID, "4711"); ok {
		t.Error("the old PIN still opens")
	}
	dev := u.Devices[0].ID
	if far.NeedsPIN(u.ID, dev) || !far.NeedsPIN(u.ID, site.RecordID{1}) {
		t.Error("own phone asks, or another's does not")
	}
	w.set(a1, u.ID, "", Patch{AlwaysPIN: ptr(true)})
	if !box.NeedsPIN(u.ID, dev) {
		t.Error("the owner wants to be asked")
	}
	if id, ok := box.Find("201"); !ok || id != u.ID {
		t.Error("not found by extension")
	}
}

func TestInviteIsUsedOnceAndTheOlderRedemptionStands(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	inv := Invite{ID: site.RecordID{1}, Site: siteB, Claim: []byte("claim"), Made: w.now, Expires: w.now.Add(24 * time.Hour)}
	w.must(a1.PutInvite(ctx, "Ann the Administrator", inv))
	w.heal()
	if is := a2.Invites(); len(is) != 1 || is[0].State(w.now) != "open" || is[0].By != "Ann the Administrator" || string(is[0].Claim) != "claim" || is[0].Site != siteB {
		t.Fatalf("%+v", is)
	}
	if len(b.Invites()) != 0 {
		t.Error("another site sees the invite")
	}
	n1, n2 := site.NodeID{1}, site.NodeID{2}
	w.must(a1.RedeemInvite(ctx, inv.ID, n1))
	if err := a1.RedeemInvite(ctx, inv.ID, n2); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), n1.String()) {
		t.Errorf("redeemed twice: %v", err)
	}
	w.tick(time.Minute)
	w.must(a2.RedeemInvite(ctx, inv.ID, n2)) // cut off, it could not know
	w.heal()
	for _, x := range []*box{a1, a2} {
		if i, _ := x.Invite(inv.ID); i.Redeemed != n1 || i.State(w.now) != "redeemed" {
			t.Errorf("stands: %+v", i)
		}
	}
	inv.ID = site.RecordID{2}
	w.must(a1.PutInvite(ctx, "Ann", inv))
	w.must(a1.RevokeInvite(ctx, "Bob", inv.ID))
	if err := a1.RedeemInvite(ctx, inv.ID, n1); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "Bob") {
		t.Errorf("a revoked invite: %v", err)
	}
	if err := a1.RevokeInvite(ctx, "Bob", site.RecordID{77}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	inv.ID = site.RecordID{3}
	w.must(a1.PutInvite(ctx, "Ann", inv))
	if i, _ := a1.Invite(inv.ID); i.State(w.now.Add(25*time.Hour)) != "expired" {
		t.Error("never expires")
	}
}

func TestACrashBetweenTheTwoScopesHealsItself(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	// The record is written, the directory is not: power is lost between.
	_, err := a1.m.commit(Mutation{Scope: a1.scope, Writes: []crdt.Write{{Table: TableUser, Record: string(u.ID[:]), Field: userName, Value: []byte("Anna")}}})
	w.must(err)
	w.sync()
	if e, _ := b.Pick("0001201"); e.Name != "Ana" {
		t.Fatal("the crash did not happen")
	}
	n, err := a1.Repair(ctx)
	w.must(err)
	if again, _ := a1.Repair(ctx); n != 1 || again != 0 {
		t.Errorf("repair wrote %d, then %d", n, again)
	}
	w.heal()
	if e, _ := b.Pick("0001201"); e.Name != "Anna" {
		t.Error("not repaired")
	}
	// Two halves change different fields; the entry is derived from both.
	w.set(a1, u.ID, "", Patch{Name: ptr("Annie")})
	w.set(a2, u.ID, "", Patch{E164: ptr("+33472001201")})
	w.heal()
	if es := b.Lookup("+33472001201"); len(es) != 1 || es[0].Name != "Annie" {
		t.Errorf("%+v", es)
	}
}

func TestPurgeEndsAUserForGood(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.must(a1.Mailboxes().Deliver(ctx, message(1, u)))
	w.heal()
	if err := a1.Purge(ctx, "Ann", u.ID); !errors.Is(err, ErrState) {
		t.Errorf("purged a live user: %v", err)
	}
	w.set(a1, u.ID, "", Patch{Deleted: ptr(true)})
	w.must(a1.Purge(ctx, "Ann", u.ID))
	w.set(a2, u.ID, "", Patch{Name: ptr("late")}) // cut off
	w.heal()
	for _, x := range []*box{a1, a2, b} {
		if _, err := x.User(u.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("still there: %v", err)
		}
		if len(x.Lookup("0001201")) != 0 || len(x.AllMessages(u.ID)) != 0 || len(x.Users(true)) != 0 {
			t.Error("traces")
		}
	}
	if v := w.create(a2, "201", "New"); v.ID == u.ID {
		t.Error("an id was used twice")
	}
	old := w.create(a1, "202", "Old")
	w.set(a1, old.ID, "", Patch{Deleted: ptr(true)})
	w.tick(Keep - time.Hour)
	if n, err := a1.PurgeOld(ctx); n != 0 || err != nil {
		t.Errorf("purged early: %d, %v", n, err)
	}
	w.tick(2 * time.Hour)
	for _, x := range []*box{a1, a2} { // nobody knows whether the clock is right
		x.cfg.Synced = func() bool { return false }
		x.care(ctx, true)
	}
	if _, err := a1.User(old.ID); err != nil {
		t.Errorf("purged by a clock that nobody sets: %v", err)
	}
	if n, err := a1.PurgeOld(ctx); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
}

func TestSecretsNeedAWrapAndGrantsEndAtTheScope(t *testing.T) {
	w, a1, _, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	// B gets hold of A's whole scope: it reads records, never secrets.
	thief := crdt.NewSet(a1.scope)
	for _, c := range a1.m.all {
		if c.Scope == a1.scope {
			thief.Add(c)
		}
	}
	dev := u.Devices[0].ID
	v := thief.Versions(secretCell(a1.scope, dev))
	if len(v) != 1 {
		t.Fatal("no secret in the scope")
	}
	if strings.Contains(string(v[0].Value), u.Devices[0].Password) {
		t.Error("the secret is not sealed")
	}
	where := trust.Where(secretCell(a1.scope, dev))
	if _, err := b.Keys().Open(where, v[0].Value); !errors.Is(err, trust.ErrSealed) {
		t.Errorf("opened at B: %v", err)
	}
	for _, rec := range thief.Records(TableKey) {
		for _, f := range thief.Fields(TableWrap, rec) {
			for _, x := range thief.Versions(crdt.Cell{Table: TableWrap, Record: rec, Field: f}) {
				if _, err := b.m.id.Unwrap(siteA, x.Value); err == nil {
					t.Error("a wrap for another node opened at B")
				}
			}
		}
	}
	if len(a1.HeldBy(a1.node)) != 1 || len(a1.HeldBy(b.node)) != 0 {
		t.Error("who could open what is wrong")
	}
	// B writes into A's scope and over A's directory entry.
	denied := len(b.m.denied)
	for _, m := range []Mutation{
		{Scope: a1.scope, Writes: []crdt.Write{{Table: TableUser, Record: string(u.ID[:]), Field: userName, Value: []byte("mine")}}},
		{Scope: crdt.Fleet, Writes: []crdt.Write{{Table: TableDirectory, Record: trust.SiteRecord(siteA, u.ID), Field: dirEntry, Value: nil}}},
		{Scope: crdt.Fleet, Writes: []crdt.Write{{Table: TableFleet, Record: "0123456789abcdef", Field: fleetName, Value: []byte("mine")}}},
	} {
		if _, err := b.m.commit(m); !errors.Is(err, trust.ErrForbidden) {
			t.Errorf("%+v: %v", m.Writes[0], err)
		}
	}
	if len(b.m.denied) != denied+3 {
		t.Error("not all were refused")
	}
}

// TestNothingGoesByAgeThatOthersMayHaveChanged: what is old waits until all who
// write the site's state have taken notice, for at most keepAtMost.
func TestNothingGoesByAgeThatOthersMayHaveChanged(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	gone := w.create(a1, "202", "Ben")
	w.must(a1.Mailboxes().Deliver(ctx, message(1, u)))
	w.must(a1.Mailboxes().Deliver(ctx, message(2, u)))
	w.heal()
	reached := false
	a1.cfg.Taken = func(crdt.ID) bool { return reached }
	one, two := site.RecordID{1}, site.RecordID{2}
	w.must(a1.Mailboxes().Delete(ctx, one))
	w.must(a1.Mailboxes().Delete(ctx, two))
	w.set(a1, gone.ID, "", Patch{Deleted: ptr(true)})
	w.must(a2.Mailboxes().Move(ctx, one, site.Saved)) // cut off
	w.set(a2, gone.ID, "", Patch{Name: ptr("Benny")})
	purge := func(want int) {
		t.Helper()
		n, err := a1.PurgeOld(ctx)
		w.must(err)
		if n != want {
			t.Errorf("%d purged, want %d", n, want)
		}
	}
	w.tick(Keep + 2*time.Hour)
	purge(0)
	first, ok := a1.notice()
	if !ok {
		t.Fatal("no notice")
	}
	w.tick(noticeAgain - time.Hour)
	purge(0)
	if n, _ := a1.notice(); n.ID != first.ID {
		t.Error("noticed again at once")
	}
	w.tick(2 * time.Hour)
	purge(0)
	if n, _ := a1.notice(); n.ID == first.ID {
		t.Error("not noticed again: if its author is gone, all wait")
	}
	w.heal()
	reached = true
	purge(1) // the second message: the first was saved, of the user an edit was not seen
	w.heal()
	if m, ok := a2.Message(one); !ok || m.Folder != site.Saved {
		t.Errorf("what was saved is %v", m.Folder)
	}
	if _, ok := a2.Message(two); ok {
		t.Error("nobody wanted the second message, and it is still there")
	}
	ms, err := a1.Merges(false)
	w.must(err)
	if len(ms) != 2 {
		t.Errorf("%d merges", len(ms))
	}
	// It has two versions, and the wanted one is not in force.
	w.must(a1.MoveMessage(ctx, "Ann", one, site.Trash))
	if m, _ := a1.Message(one); m.Folder != site.Trash {
		t.Errorf("it cannot be thrown away: %s", m.Folder)
	}
	w.heal()
	reached = false
	w.tick(keepAtMost + time.Hour)
	purge(2) // whoever was to be asked is gone for good
}
