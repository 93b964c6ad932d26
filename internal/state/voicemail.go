package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Mailboxes is the state as voicemail uses it: changes made with a telephone,
// by "phone". A mailbox is its user's id.
type Mailboxes struct{ s *State }

// Mailboxes of this node: it reads those of its own site, and leaves messages
// for any.
func (s *State) Mailboxes() Mailboxes { return Mailboxes{s} }

type wireMessage struct {
	Mailbox  []byte `cbor:"1,keyasint"`
	From     string `cbor:"2,keyasint,omitempty"`
	FromName string `cbor:"3,keyasint,omitempty"`
	At       int64  `cbor:"4,keyasint"` // ms since 1970
	Duration int64  `cbor:"5,keyasint"` // ms
	Audio    []byte `cbor:"6,keyasint"`
	Size     int64  `cbor:"7,keyasint"`
	CutOff   bool   `cbor:"8,keyasint,omitempty"`
	LeftAt   []byte `cbor:"9,keyasint"`
}

func readMessage(r reader, home site.ID, rec site.RecordID) (*site.Message, bool) {
	var w wireMessage
	if r.final() || !unmarshal(r.bytes(msgEntry), &w) || len(w.Mailbox) != len(site.RecordID{}) || len(w.Audio) != len(site.BlobRef{}) || len(w.LeftAt) != len(site.ID{}) {
		return nil, false
	}
	folder, _ := crdt.Kept(r.versions(msgFolder), []byte(site.Trash))
	m := &site.Message{ID: rec, Mailbox: site.RecordID(w.Mailbox), Site: home, From: w.From, FromName: w.FromName, At: time.UnixMilli(w.At),
		Duration: time.Duration(w.Duration) * time.Millisecond, Audio: site.BlobRef(w.Audio), Size: w.Size, CutOff: w.CutOff,
		Heard: r.anyTrue(msgHeard), Folder: site.Folder(folder.Value), LeftAt: site.ID(w.LeftAt)}
	if m.Folder != site.Saved && m.Folder != site.Trash {
		m.Folder = site.Inbox
	}
	return m, true
}

func (s *State) indexMessage(r reader, id site.RecordID) (mailbox site.RecordID, lamp bool) {
	if old := s.ix.messages[id]; old != nil {
		delete(s.ix.messages, id)
		if delete(s.ix.boxes[old.Mailbox], id); len(s.ix.boxes[old.Mailbox]) == 0 {
			delete(s.ix.boxes, old.Mailbox)
		}
		if delete(s.ix.audio[old.Audio], id); len(s.ix.audio[old.Audio]) == 0 {
			delete(s.ix.audio, old.Audio)
		}
		mailbox, lamp = old.Mailbox, true
	}
	m, ok := readMessage(r, s.cfg.Site, id)
	if !ok {
		return mailbox, lamp
	}
	s.ix.messages[id] = m
	if s.ix.boxes[m.Mailbox] == nil {
		s.ix.boxes[m.Mailbox] = map[site.RecordID]*site.Message{}
	}
	s.ix.boxes[m.Mailbox][id] = m
	if s.ix.audio[m.Audio] == nil {
		s.ix.audio[m.Audio] = map[site.RecordID]*site.Message{}
	}
	s.ix.audio[m.Audio][id] = m
	return m.Mailbox, true
}

// OnMailbox calls fn when a mailbox of the own site changed: its lamp may read
// differently. fn holds no lock and is quick.
func (s *State) OnMailbox(fn func(mailbox site.RecordID)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(slices.Clone(s.subs), fn)
}

// Summary is what the lamp of a mailbox shows: messages not heard, and heard,
// trash left out. It is computed, never stored.
func (s *State) Summary(mailbox site.RecordID) (sum site.Summary) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.ix.boxes[mailbox] {
		switch {
		case m.Folder == site.Trash:
		case m.Heard:
			sum.Old++
		default:
			sum.New++
		}
	}
	return sum
}

// AllMessages lists a mailbox, trash included, oldest first.
func (s *State) AllMessages(mailbox site.RecordID) []site.Message {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]site.Message, 0, len(s.ix.boxes[mailbox]))
	for _, m := range s.ix.boxes[mailbox] {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b site.Message) int {
		if d := a.At.Compare(b.At); d != 0 {
			return d
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	return out
}

// Message finds one of the own site.
func (s *State) Message(id site.RecordID) (site.Message, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.ix.messages[id]; m != nil {
		return *m, true
	}
	return site.Message{}, false
}

// Blobs lists the audio that live entries, greetings and menus of the site name.
func (s *State) Blobs() (out []site.BlobRef) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	seen := map[site.BlobRef]bool{}
	for ref := range s.ix.audio {
		seen[ref] = true
	}
	for _, u := range s.ix.users {
		for _, ref := range u.greetings {
			seen[ref] = true
		}
	}
	for _, x := range s.ix.records[TableMenu] {
		m, ok := x.(site.Menu)
		for _, part := range []site.MenuPart{m.Open, m.Closed} {
			if b, err := hex.DecodeString(part.Audio); ok && err == nil && len(b) == len(site.BlobRef{}) {
				seen[site.BlobRef(b)] = true
			}
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// MessagesWith lists the own site's messages that have that audio.
func (s *State) MessagesWith(ref site.BlobRef) (out []site.Message) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.ix.audio[ref] {
		out = append(out, *m)
	}
	return out
}

// Messages lists what lies in a mailbox of this site, trash left out.
func (b Mailboxes) Messages(mailbox site.RecordID) []site.Message {
	return slices.DeleteFunc(b.s.AllMessages(mailbox), func(m site.Message) bool { return m.Folder == site.Trash })
}

// Deliver adds a message to a mailbox of any site. The same ID twice is one
// message. It is durable here when Deliver returns; the home gets it when it
// can be reached.
func (b Mailboxes) Deliver(ctx context.Context, m site.Message) error {
	s := b.s
	fail := func(err error) error { return fmt.Errorf("deliver message %s to mailbox %s: %w", m.ID, m.Mailbox, err) }
	if m.ID.IsZero() || m.Mailbox.IsZero() || m.Audio.IsZero() {
		return fail(fmt.Errorf("%w: a message has an id, a mailbox and audio", ErrInvalid))
	}
	if m.Site.IsZero() {
		e, ok := s.Entry(m.Mailbox)
		if !ok {
			return fail(fmt.Errorf("%w: the directory does not know the mailbox", ErrNotFound))
		}
		m.Site = e.Home
	}
	if m.LeftAt.IsZero() {
		m.LeftAt = s.cfg.Site
	}
	// Names come from telephones; half a character would make the entry unreadable.
	cut := func(t string) string { return strings.ToValidUTF8(t[:min(len(t), 120)], "") }
	scope := crdt.SiteScope(m.Site)
	ref, _ := byRef("phone")
	errKnown := fmt.Errorf("%w", ErrTaken)
	_, err := s.commit(ctx, Mutation{Scope: scope, By: ref, Writes: []crdt.Write{{Table: TableMessage, Record: string(m.ID[:]), Field: msgEntry,
		Value: marshal(wireMessage{Mailbox: m.Mailbox[:], From: cut(m.From), FromName: cut(m.FromName), At: m.At.UnixMilli(),
			Duration: m.Duration.Milliseconds(), Audio: m.Audio[:], Size: m.Size, CutOff: m.CutOff, LeftAt: m.LeftAt[:]})}},
		Precondition: func(v View) error {
			r := reader{v.Set(scope), TableMessage, string(m.ID[:])}
			if len(r.versions(msgEntry)) > 0 || r.final() {
				return errKnown
			}
			return nil
		}})
	if err == errKnown {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

func (b Mailboxes) set(ctx context.Context, by string, id site.RecordID, f string, value []byte) error {
	if _, ok := b.s.Message(id); !ok {
		return fmt.Errorf("message %s: %w at this site", id, ErrNotFound)
	}
	return b.s.put(ctx, by, b.s.scope, TableMessage, string(id[:]), map[string][]byte{f: value})
}

// MarkHeard is never undone by a merge.
func (b Mailboxes) MarkHeard(ctx context.Context, message site.RecordID) error {
	return b.set(ctx, "phone", message, msgHeard, boolValue(true))
}

// Move puts a message into a folder. A message saved on one side and deleted on
// the other stays saved.
func (b Mailboxes) Move(ctx context.Context, message site.RecordID, to site.Folder) error {
	return b.s.MoveMessage(ctx, "phone", message, to)
}

// Delete moves a message into the trash, from where it can be restored 30 days.
func (b Mailboxes) Delete(ctx context.Context, message site.RecordID) error {
	return b.Move(ctx, message, site.Trash)
}

// MoveMessage is Move by a person.
func (s *State) MoveMessage(ctx context.Context, by string, message site.RecordID, to site.Folder) error {
	if to != site.Inbox && to != site.Saved && to != site.Trash {
		return fmt.Errorf("move message %s to %q: %w: %s, %s or %s", message, to, ErrInvalid, site.Inbox, site.Saved, site.Trash)
	}
	return Mailboxes{s}.set(ctx, by, message, msgFolder, []byte(to))
}

// Greeting is the owner's own greeting for a reason; "" is for all others.
func (b Mailboxes) Greeting(mailbox site.RecordID, reason string) (site.BlobRef, bool) {
	u, ok := b.s.Settings(mailbox)
	if !ok {
		return site.BlobRef{}, false
	}
	ref, ok := u.greetings[reason]
	return ref, ok
}

// SetGreeting with a zero ref removes it.
func (b Mailboxes) SetGreeting(ctx context.Context, mailbox site.RecordID, reason string, ref site.BlobRef) error {
	if _, ok := b.s.Settings(mailbox); !ok {
		return fmt.Errorf("greeting of mailbox %s: %w at this site", mailbox, ErrNotFound)
	}
	if len(reason) > crdt.MaxField-1 {
		return fmt.Errorf("greeting of mailbox %s: %w: reason %q", mailbox, ErrInvalid, reason)
	}
	var value []byte
	if !ref.IsZero() {
		value = ref[:]
	}
	return b.s.put(ctx, "phone", b.s.scope, TableUser, string(mailbox[:]), map[string][]byte{userGreeting + reason: value})
}

// Find is the mailbox of a number as people dial it here.
func (b Mailboxes) Find(number string) (site.RecordID, bool) {
	own := b.s.Own()
	if len(number) == own.ExtLen {
		number = own.Code + number
	}
	e, ok := b.s.Pick(number)
	return e.User, ok
}

// NeedsPIN: the owner's own phone does not ask, unless he wants it to.
func (b Mailboxes) NeedsPIN(mailbox, dev site.RecordID) bool {
	b.s.mu.RLock()
	defer b.s.mu.RUnlock()
	u, d := b.s.ix.users[mailbox], b.s.ix.devices[dev]
	return u == nil || d == nil || d.deleted || d.user != mailbox || u.AlwaysPIN
}

// What is sealed of a PIN. There are few PINs: it is the seal that protects it,
// the hash only keeps it from being read over a shoulder.
type wirePIN struct {
	_    struct{} `cbor:",toarray"`
	Salt []byte
	Sum  []byte
}

func pinSum(salt []byte, pin string) []byte {
	sum := sha256.Sum256(append(append([]byte("ccnode pin 1"), salt...), pin...))
	return sum[:]
}

func pinCell(scope crdt.Scope, user site.RecordID) crdt.Cell {
	return crdt.Cell{Scope: scope, Table: TableUser, Record: string(user[:]), Field: userPIN}
}

func (s *State) sealPIN(user site.RecordID, pin string) ([]byte, error) {
	if !digits(pin) || len(pin) < 4 || len(pin) > 12 {
		return nil, fmt.Errorf("PIN: %w: 4 to 12 digits", ErrInvalid)
	}
	salt := make([]byte, 8)
	if err := s.draw(salt); err != nil {
		return nil, err
	}
	b, err := s.keys.Seal(trust.Where(pinCell(s.scope, user)), marshal(wirePIN{Salt: salt, Sum: pinSum(salt, pin)}), lockedRandom{s})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return b, nil
}

// CheckPIN compares a PIN; a mailbox without one has none that is right.
func (b Mailboxes) CheckPIN(ctx context.Context, mailbox site.RecordID, pin string) (ok bool, reason string) {
	var v crdt.Version
	b.s.cfg.Engine.View(func(view View) {
		v, _, _ = crdt.LatestReset(reader{view.Set(b.s.scope), TableUser, string(mailbox[:])}.versions(userPIN))
	})
	if len(v.Value) == 0 {
		return false, "the mailbox has no PIN"
	}
	raw, err := b.s.keys.Open(trust.Where(pinCell(b.s.scope, mailbox)), v.Value)
	var w wirePIN
	if err != nil || !unmarshal(raw, &w) {
		return false, "the PIN cannot be opened at this node"
	}
	if subtle.ConstantTimeCompare(w.Sum, pinSum(w.Salt, pin)) != 1 {
		return false, "wrong PIN"
	}
	return true, ""
}

// SetPIN is the owner's change by telephone.
func (b Mailboxes) SetPIN(ctx context.Context, mailbox site.RecordID, pin string) error {
	_, err := b.s.Set(ctx, "phone", mailbox, "", Patch{PIN: &pin})
	return err
}
