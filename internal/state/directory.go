package state

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// An Entry is what the whole fleet knows of a user: derived from the record at
// its home.
type Entry struct {
	User        site.RecordID
	Home        site.ID
	Disabled    bool
	NoVoicemail bool
	Kind        EntryKind  // so ordered, an entry takes 80 bytes and not 96
	Written     crdt.Stamp // of the number; of a clash the older one is meant
	Number      string     // <code><extension>
	Name        string
	E164        string
}

// An EntryKind says what answers at a number.
type EntryKind uint8

const (
	UserEntry EntryKind = iota
	GroupEntry
	MenuEntry
)

type wireEntry struct {
	Number      string `cbor:"1,keyasint"`
	Name        string `cbor:"2,keyasint,omitempty"`
	Home        []byte `cbor:"3,keyasint"`
	E164        string `cbor:"4,keyasint,omitempty"`
	Written     uint64 `cbor:"5,keyasint"`
	Disabled    bool   `cbor:"6,keyasint,omitempty"`
	NoVoicemail bool   `cbor:"7,keyasint,omitempty"`
	Kind        uint8  `cbor:"8,keyasint,omitempty"`
}

func readEntry(r reader) (*Entry, bool) {
	var w wireEntry
	b := r.bytes(dirEntry)
	if len(b) == 0 || len(r.rec) != trust.PrefixSize+len(site.RecordID{}) || !unmarshal(b, &w) || len(w.Home) != len(site.ID{}) ||
		string(w.Home[:trust.PrefixSize]) != r.rec[:trust.PrefixSize] || w.Number == "" {
		return nil, false
	}
	text := w.Number + w.Name + w.E164 // one piece of memory
	name, alias := len(w.Number), len(w.Number)+len(w.Name)
	return &Entry{User: site.RecordID([]byte(r.rec[trust.PrefixSize:])), Number: text[:name], Name: text[name:alias], Home: site.ID(w.Home), E164: text[alias:],
		Written: crdt.Stamp(w.Written), Disabled: w.Disabled, NoVoicemail: w.NoVoicemail, Kind: EntryKind(w.Kind)}, true
}

func (e *Entry) names() []string {
	if e.E164 != "" {
		return []string{e.Number, e.E164}
	}
	return []string{e.Number}
}

// entryOf is the directory's value for a user record of ours: empty for one
// that nobody can call.
func entryOf(home site.ID, r reader) []byte {
	number, ok := r.latest(userNumber)
	if !ok || r.anyTrue(userDeleted) || r.final() {
		return nil
	}
	return marshal(wireEntry{Number: string(number.Value), Name: r.text(userName), Home: home[:], E164: r.text(userE164),
		Written: uint64(number.Stamp), Disabled: r.anyTrue(userDisabled), NoVoicemail: r.truth(userNoMail)})
}

// unheard says that a user record, or its number, has not arrived here: a box
// that is being filled must not take it for one that is gone.
func unheard(r reader) bool {
	_, ok := r.latest(userNumber)
	return !ok && !r.anyTrue(userDeleted) && !r.final()
}

// Lookup finds entries by full number or E.164, the older number write first.
// More than one is a clash; at a home of one of them that one is meant.
func (s *State) Lookup(number string) []Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := s.ix.of(number)
	if len(list) == 0 {
		return nil
	}
	out := make([]Entry, len(list))
	for i, e := range list {
		out[i] = *e
	}
	return out
}

// Entry is the directory's line of a user.
func (s *State) Entry(user site.RecordID) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.ix.listing.users[user]; e != nil {
		return *e, true
	}
	return Entry{}, false
}

// Service is the directory's line of a group or a menu.
func (s *State) Service(id site.RecordID) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.ix.services {
		if e.User == id {
			return *e, true
		}
	}
	return Entry{}, false
}

// Entries counts the directory; Directory lists it, in no order.
func (s *State) Entries() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.len()
}

func (s *State) Directory() []Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Entry, 0, s.ix.len())
	s.ix.each(func(e *Entry) { out = append(out, *e) })
	return out
}

// Pick returns the entry that a number means at this site: ours if we are a
// home of one, else the older number write.
func (s *State) Pick(number string) (Entry, bool) {
	list := s.Lookup(number)
	for _, e := range list {
		if e.Home == s.cfg.Site {
			return e, true
		}
	}
	if len(list) == 0 {
		return Entry{}, false
	}
	return list[0], true
}

// syncDirectory derives the directory entries of own users again and writes
// those that differ, in the name of whoever changed the record last: after a
// change of the record, after a merge of two sides' changes, and after a power
// cut between the two writes.
func (s *State) syncDirectory(ctx context.Context, users ...site.RecordID) (n int, err error) {
	lines := map[crdt.Ref][]crdt.Write{}
	alone := len(s.cfg.Book.Members(s.cfg.Site)) < 2 // nobody else can have what is not here
	for part := range slices.Chunk(users, 200) {     // merges go on between the parts
		s.cfg.Engine.View(func(v View) {
			own, fleet := v.Set(s.scope), v.Set(crdt.Fleet)
			for _, u := range part {
				line := func(t uint16, want []byte, from reader) {
					r := reader{fleet, t, trust.SiteRecord(s.cfg.Site, u)}
					if bytes.Equal(want, r.bytes(dirEntry)) || r.final() {
						return
					}
					by := from.by()
					lines[by] = append(lines[by], crdt.Write{Table: t, Record: r.rec, Field: dirEntry, Value: want})
				}
				from := reader{own, TableUser, string(u[:])}
				if alone || !unheard(from) {
					line(TableDirectory, entryOf(s.cfg.Site, from), from)
				}
				service, from := s.serviceOf(own, u)
				line(TableService, service, from)
			}
		})
	}
	var ms []Mutation
	for by, ws := range lines {
		ms = append(ms, packed(crdt.Fleet, by, slices.Collect(slices.Chunk(ws, 1)))...)
	}
	for i, err := range s.commitAll(ctx, ms) {
		if err != nil {
			return n, fmt.Errorf("write %d directory entries: %w", len(ms[i].Writes), err)
		}
		n += len(ms[i].Writes)
	}
	return n, nil
}
