package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// replaceKey draws a new key of the site when the one in use was wrapped for a
// box that was revoked since: what is sealed from then on is not for the thief.
// What is sealed already stays as it is; Replace is for that. Both boxes of a
// pair may do it in a cut: the newer key is then used, and both open.
func (s *State) replaceKey(ctx context.Context) (bool, error) {
	if s.cfg.Keeper || !s.Exposes() {
		return false, nil
	}
	if err := s.DrawKey(ctx, "system"); err != nil {
		return false, err
	}
	s.cfg.Log.Info("A box that could open this site's key was revoked: a new key is used from now on")
	return true, nil
}

// Exposes says whether a revoked box could open the key in use.
func (s *State) Exposes() bool {
	k, ok := s.keys.Current()
	if !ok {
		return false
	}
	e := k.Epoch()
	out := false
	s.cfg.Engine.View(func(v View) {
		r := reader{v.Set(s.scope), TableWrap, string(e[:])}
		for _, f := range r.set.Fields(TableWrap, string(e[:])) {
			if len(f) != len(site.NodeID{}) {
				continue
			}
			if id := site.NodeID([]byte(f)); s.cfg.Book.Revocation(id) != nil || s.cfg.Book.Cheats(id) {
				out = true
			}
		}
	})
	return out
}

// ChangeFor is how long telephones that were off may still come for what they
// trust from now on by what they trusted before (RenewPhones).
const ChangeFor = 24 * time.Hour

// A PhoneKey is one that the CA of the site's telephones, and the secret URLs of
// their settings, are made of. It is pinned: a new key of the site does not
// change what the telephones trust, a person does (RenewPhones).
type PhoneKey struct {
	Key    trust.SiteKey
	Number int       // 0: the site's first; each renewal counts one more
	Since  time.Time // when it was pinned; zero: from the beginning
}

// PhoneKeys are the key that telephones trust now, and the ones before it, the
// newest first. It is empty until this node can open the first.
func (s *State) PhoneKeys() (out []PhoneKey) {
	type pinned struct {
		PhoneKey
		stamp crdt.Stamp
	}
	var all []pinned
	var first *pinned
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for _, rec := range set.Records(TableKey) {
			if len(rec) != len(trust.Epoch{}) {
				continue
			}
			k, ok := s.keys.Key(trust.Epoch([]byte(rec)))
			if !ok {
				continue
			}
			r := reader{set, TableKey, rec}
			if p, ok := r.latest(keyPhones); ok && len(p.Value) == 1 {
				all = append(all, pinned{PhoneKey{k, int(p.Value[0]), time.UnixMilli(p.Stamp.Millis())}, p.Stamp})
				continue
			}
			if made, ok := r.latest(keyMade); ok && (first == nil || made.Stamp < first.stamp) {
				first = &pinned{PhoneKey{Key: k}, made.Stamp}
			}
		}
	})
	// The site's first key is pinned by having been there before all others.
	slices.SortFunc(all, func(a, b pinned) int { return cmp.Compare(b.stamp, a.stamp) })
	for _, p := range all {
		out = append(out, p.PhoneKey)
	}
	if first != nil {
		out = append(out, first.PhoneKey)
	}
	return out
}

// renewPhones pins the key in use for the telephones.
func (s *State) renewPhones(ctx context.Context, by string) error {
	k, ok := s.keys.Current()
	if !ok {
		return ErrNoKey
	}
	have := s.PhoneKeys()
	if len(have) > 0 && have[0].Key == k {
		return nil
	}
	n := 1
	if len(have) > 0 {
		n = have[0].Number + 1
	}
	e := k.Epoch()
	return s.writeAs(ctx, by, crdt.Write{Table: TableKey, Record: string(e[:]), Field: keyPhones, Value: []byte{byte(n)}})
}

// A Replaced is one secret that Replace made anew, or could not.
type Replaced struct {
	Secret
	New  string // what it is now, for a person to pass on; "": not shown, or not replaced
	Todo error  // why a person has to replace it, nil when it is done
}

// ErrOthers is of secrets that somebody outside gave: only there another is had.
var ErrOthers = errors.New("it was given by somebody else")

// Replace replaces what a node could ever open of this site: passwords of
// telephones and PINs are drawn anew and alone count from then on, a new key
// is used, and the telephones are to trust what is made of it. Secrets that
// somebody else gave, as the provider of a line, are returned with ErrOthers.
// It may be called again after a failure: what was replaced already is no
// longer exposed.
func (s *State) Replace(ctx context.Context, by string, n site.NodeID) ([]Replaced, error) {
	x := s.Exposed(n)
	if len(x.Epochs) == 0 {
		return nil, nil
	}
	if _, ok := s.keys.Current(); !ok {
		return nil, ErrNoKey
	}
	if x.Current {
		if s.cfg.Book.Revocation(n) == nil {
			return nil, fmt.Errorf("%w: it is a member still, and would be given the new key, too; revoke it first", ErrInvalid)
		}
		if err := s.DrawKey(ctx, by); err != nil {
			return nil, err
		}
	}
	if have := s.PhoneKeys(); len(have) > 0 && slices.Contains(x.Epochs, have[0].Key.Epoch()) {
		if err := s.renewPhones(ctx, by); err != nil {
			return nil, fmt.Errorf("renew what the telephones trust: %w", err)
		}
	}
	var out []Replaced
	done := map[string]bool{}
	for _, y := range x.Secrets {
		if at := fmt.Sprint(y.Table, y.Record, y.Field); done[at] {
			continue // another version of the same
		} else {
			done[at] = true
		}
		fresh, err := s.replace(ctx, by, y)
		if err != nil && ctx.Err() != nil {
			return out, err
		}
		out = append(out, Replaced{y, fresh, err})
	}
	return out, nil
}

// replace draws one secret anew.
func (s *State) replace(ctx context.Context, by string, y Secret) (string, error) {
	switch y.Table {
	case TableDevice:
		return s.resetPassword(ctx, by, y)
	case TableUser:
		pin, err := s.newPIN()
		if err != nil {
			return "", err
		}
		_, err = s.Set(ctx, by, y.Record, "", Patch{PIN: &pin, SecurityReset: true})
		return pin, err
	case TablePhone:
		if err := s.resetPhone(ctx, by, y); err != nil {
			return "", err
		}
		return "", nil
	}
	return "", ErrOthers
}

// resetPassword gives a device a password that alone counts from now on.
func (s *State) resetPassword(ctx context.Context, by string, y Secret) (string, error) {
	s.write.Lock()
	defer s.write.Unlock()
	pw, err := s.newPassword()
	if err != nil {
		return "", err
	}
	sec, err := s.sealSecret(y.Record, secret{Password: pw})
	if err != nil {
		return "", err
	}
	return pw, s.writeAs(ctx, by, crdt.Write{Table: TableDevice, Record: string(y.Record[:]), Field: devSecret, Value: sec, Flags: crdt.Reset})
}

// writeAs writes one cell of the own site for a person.
func (s *State) writeAs(ctx context.Context, by string, w crdt.Write) error {
	m := Mutation{Scope: s.scope}
	s.cfg.Engine.View(func(v View) { m.By, m.Writes = s.person(v, by) })
	m.Writes = append(m.Writes, w)
	_, err := s.commit(ctx, m)
	return err
}

// resetPhone gives a phone's own page another password.
func (s *State) resetPhone(ctx context.Context, by string, y Secret) error {
	pw, err := s.newPassword()
	if err != nil {
		return err
	}
	_, err = Change(ctx, s, by, y.Record, "", func(p *site.Phone) error {
		p.Admin = pw
		return nil
	})
	return err
}

// newPIN draws six digits.
func (s *State) newPIN() (string, error) {
	var b [6]byte
	for {
		if err := s.draw(b[:]); err != nil {
			return "", err
		}
		out := make([]byte, len(b))
		even := true
		for i, x := range b {
			even = even && x < 250 // else the low digits would come more often
			out[i] = '0' + x%10
		}
		if even && !dull(string(out)) {
			return string(out), nil
		}
	}
}

// dull PINs are the first that a thief tries.
func dull(pin string) bool {
	for i := 1; i < len(pin); i++ {
		if pin[i] != pin[0] {
			return false
		}
	}
	return true
}
