package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Keep is how long deleted users and messages can be restored.
const Keep = 30 * 24 * time.Hour

// Run looks after what the state derives or owes itself: directory entries,
// wraps for newcomers, purges of what was deleted long ago. It says nothing
// when nothing is to be done, and it ends with ctx. Both nodes of a pair run
// it; the second waits, so that usually only the first writes: but a user that
// was disabled or deleted is closed in the directory at once, by either.
func (s *State) Run(ctx context.Context) error {
	s.care(ctx, true)
	wait := time.NewTimer(6 * time.Hour)
	defer wait.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-s.stir:
			if !s.first() {
				if _, err := s.syncDirectory(ctx, s.closed()...); err != nil && ctx.Err() == nil {
					s.cfg.Log.Warn("The directory still shows users that were disabled; it is tried again", "err", err)
				}
				pause := time.NewTimer(10 * time.Second)
				select {
				case <-ctx.Done():
					pause.Stop()
					return nil
				case <-pause.C:
				}
			}
		case <-wait.C:
			wait.Reset(6 * time.Hour)
			all = true
		}
		s.care(ctx, all)
	}
}

// closed are the users that merges touched and that nobody may call or log in
// as any more.
func (s *State) closed() (out []site.RecordID) {
	s.dmu.Lock()
	dirty := slices.Collect(maps.Keys(s.dirty))
	s.dmu.Unlock()
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for _, u := range dirty {
			if r := (reader{set, TableUser, string(u[:])}); r.anyTrue(userDisabled) || r.anyTrue(userDeleted) {
				out = append(out, u)
			}
		}
	})
	return out
}

// care puts in order what merges touched, or everything.
func (s *State) care(ctx context.Context, all bool) {
	s.dmu.Lock()
	dirty := slices.Collect(maps.Keys(s.dirty))
	clear(s.dirty)
	s.dmu.Unlock()
	repair := func() (int, error) {
		n, err := s.syncDirectory(ctx, dirty...)
		wrapped, werr := s.careKeys(ctx)
		return n + wrapped, errors.Join(err, werr)
	}
	if all {
		repair = func() (int, error) { return s.Repair(ctx) }
	}
	if n, err := repair(); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("The state could not be put in order; it is tried again", "err", err)
		s.dmu.Lock()
		for _, u := range dirty {
			s.dirty[u] = true // with the next merge, or in six hours
		}
		s.dmu.Unlock()
	} else if n > 0 {
		s.cfg.Log.Debug("The state was put in order", "writes", n)
	}
	if !all || s.cfg.Synced != nil && !s.cfg.Synced() {
		return // a clock that jumped a month ahead would empty the trash for good
	}
	if n, err := s.PurgeOld(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("Old deletions could not be purged", "err", err)
	} else if n > 0 {
		s.cfg.Log.Info("Old deletions were purged", "records", n)
	}
}

// first says whether this node is the first by id of those members of its site
// that can open the site's secrets: a newcomer waits for their care itself.
func (s *State) first() bool {
	for _, g := range s.cfg.Book.Members(s.cfg.Site) {
		switch id := g.Node(); {
		case id == s.node:
			return true
		case len(s.HeldBy(id)) > 0:
			return false
		}
	}
	return true
}

// Repair writes what others derive from our records and is not right: after a
// power cut between two scopes' changes, after a merge, after a box joined. It
// returns the number of writes; a second call at once returns 0.
func (s *State) Repair(ctx context.Context) (n int, err error) {
	s.mu.RLock()
	users := make([]site.RecordID, 0, len(s.ix.users))
	for id := range s.ix.users {
		users = append(users, id)
	}
	for _, t := range []uint16{TableGroup, TableMenu} {
		users = slices.AppendSeq(users, maps.Keys(s.ix.records[t]))
	}
	s.ix.each(func(e *Entry) { // entries of users that were purged, or lost with their last box
		if e.Home == s.cfg.Site && s.ix.users[e.User] == nil {
			users = append(users, e.User)
		}
	})
	s.mu.RUnlock()
	n, err = s.syncDirectory(ctx, users...)
	wrapped, werr := s.careKeys(ctx)
	return n + wrapped, errors.Join(err, werr)
}

// careKeys gives a new key where the one in use was stolen, and every key to
// who is to have it.
func (s *State) careKeys(ctx context.Context) (n int, err error) {
	drawn, err := s.replaceKey(ctx)
	if drawn {
		n++
	}
	wrapped, werr := s.WrapKeys(ctx)
	return n + wrapped, errors.Join(err, werr)
}

// PurgeOld removes for good what was deleted longer ago than Keep. A purge wins
// over what a person wrote without having seen it, so nothing goes by age that
// another box may have changed meanwhile: first a notice is written, and only
// what was old enough at a notice that every holder has taken is purged. A
// deleted user with edits that the delete had not seen stays until somebody has
// decided. After keepAtMost it goes all the same.
func (s *State) PurgeOld(ctx context.Context) (n int, err error) {
	now := s.cfg.Now()
	notice, noticed := s.notice()
	at := time.UnixMilli(notice.Stamp.Millis())
	agreed := now
	if s.cfg.Taken != nil {
		if agreed = now.Add(-keepAtMost + Keep); noticed && at.After(agreed) && s.cfg.Taken(notice.ID) {
			agreed = at
		}
	}
	var waits time.Time // since when that has been longest of all to be purged
	due := func(since time.Time) bool {
		old := since.Add(Keep)
		if !old.Before(agreed) && old.Before(now) && (waits.IsZero() || old.Before(waits)) {
			waits = old
		}
		return old.Before(agreed)
	}
	var users, messages []site.RecordID
	deleted := map[site.RecordID]time.Time{}
	s.mu.RLock()
	for id, u := range s.ix.users {
		if u.Deleted {
			deleted[id] = u.DeletedAt
		}
	}
	for id, m := range s.ix.messages {
		if m.Folder == site.Trash {
			messages = append(messages, id)
		}
	}
	s.mu.RUnlock()
	s.cfg.Engine.View(func(v View) {
		for id, since := range deleted {
			_, open := s.unseenEdits(v, recordKey{TableUser, id})
			if !open && due(since) || since.Before(now.Add(-keepAtMost)) {
				users = append(users, id)
			}
		}
		messages = slices.DeleteFunc(messages, func(id site.RecordID) bool {
			f, _ := crdt.Kept(reader{v.Set(s.scope), TableMessage, string(id[:])}.versions(msgFolder), []byte(site.Trash))
			return !due(time.UnixMilli(f.Stamp.Millis()))
		})
	})
	for _, id := range users {
		if err := s.Purge(ctx, "system", id); err != nil {
			return n, err
		}
		n++
	}
	for _, id := range messages {
		if err := s.purge(ctx, "system", s.scope, TableMessage, string(id[:])); err != nil {
			return n, err
		}
		n++
	}
	return n, s.giveNotice(ctx, waits, noticed && waits.Before(at) && now.Sub(at) < noticeAgain)
}

const (
	// keepAtMost bounds how long a deleted record waits for a holder that cannot
	// be reached, or for a decision.
	keepAtMost = 400 * 24 * time.Hour
	// noticeAgain is after how long a notice that not all have taken is given
	// anew: its author may be gone.
	noticeAgain = 7 * 24 * time.Hour
	// secondWaits is how long the other boxes of a site leave it to the first.
	secondWaits = 24 * time.Hour
)

// notice is the newest word of this site that it is about to purge what is old.
func (s *State) notice() (out crdt.Version, ok bool) {
	s.cfg.Engine.View(func(v View) {
		out, ok = reader{v.Set(s.scope), TablePurge, string(s.cfg.Site[:])}.latest(purgeNotice)
	})
	return out, ok
}

// giveNotice says to all holders that what is old is to be purged, if something
// waits for that since then and nobody has said it.
func (s *State) giveNotice(ctx context.Context, waits time.Time, said bool) error {
	if waits.IsZero() || said || !s.first() && s.cfg.Now().Sub(waits) < secondWaits {
		return nil
	}
	ref, _ := byRef("system")
	_, err := s.commit(ctx, Mutation{Scope: s.scope, By: ref,
		Writes: []crdt.Write{{Table: TablePurge, Record: string(s.cfg.Site[:]), Field: purgeNotice, Value: []byte{1}}}})
	if err != nil {
		return fmt.Errorf("give notice of a purge: %w", err)
	}
	return nil
}

// purge writes a record's final, unless it has one.
func (s *State) purge(ctx context.Context, by string, scope crdt.Scope, table uint16, rec string) error {
	ref, _ := byRef(by)
	done := errors.New("purged before")
	_, err := s.commit(ctx, Mutation{Scope: scope, By: ref, Writes: []crdt.Write{{Table: table, Record: rec, Value: []byte{}, Flags: crdt.Final}},
		Precondition: func(v View) error {
			if _, ok := v.Set(scope).Final(table, rec); ok {
				return done
			}
			return nil
		}})
	if errors.Is(err, done) {
		return nil
	}
	return err
}

// Purge removes a deleted user of this site for good: its record, devices,
// messages and directory entry. It is never undone.
func (s *State) Purge(ctx context.Context, by string, id site.RecordID) error {
	s.mu.RLock()
	u := s.ix.users[id]
	devices := slices.Clone(s.ix.phones[id])
	var messages []site.RecordID
	for m := range s.ix.boxes[id] {
		messages = append(messages, m)
	}
	s.mu.RUnlock()
	switch {
	case u == nil:
		return fmt.Errorf("purge user %s: %w at this site", id, ErrNotFound)
	case !u.Deleted:
		return fmt.Errorf("purge user %s: %w: delete it first", id, ErrState)
	}
	// The user's own final comes last: until then a crash leaves a deleted user
	// whose purge is simply tried again.
	err := s.purge(ctx, by, crdt.Fleet, TableDirectory, trust.SiteRecord(s.cfg.Site, id))
	if _, roams := s.Roaming(id); err == nil && roams {
		err = s.purge(ctx, by, crdt.Fleet, TableRoam, trust.SiteRecord(s.cfg.Site, id))
	}
	for _, d := range devices {
		if err == nil {
			err = s.purge(ctx, by, s.scope, TableDevice, string(d[:]))
		}
	}
	for _, m := range messages {
		if err == nil {
			err = s.purge(ctx, by, s.scope, TableMessage, string(m[:]))
		}
	}
	if err == nil {
		err = s.purge(ctx, by, s.scope, TableUser, string(id[:]))
	}
	if err != nil {
		return fmt.Errorf("purge user %s: %w", id, err)
	}
	return nil
}
