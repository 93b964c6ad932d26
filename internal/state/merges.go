package state

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Kinds of merges.
const (
	MergeEdit    = "edit"    // one field, changed on two sides
	MergeDelete  = "delete"  // a record deleted by somebody who had not seen an edit
	MergeNumber  = "number"  // two users with one number
	MergeRemoved = "removed" // changes by a node after its removal elsewhere
)

// A Merge is one thing that two sides changed without seeing each other. Nothing
// is lost: one side is in force, the others can be taken.
type Merge struct {
	ID      string
	Kind    string
	Record  string // in words: "user 0001201 Ana"
	User    site.RecordID
	Field   string
	InForce string
	Policy  Policy
	Why     string // why that is in force
	Both    string // what all sides say together, if Keep takes KeepBoth
	Do      string // how to settle it, where Keep cannot
	Sides   []Side // newest first
	At      time.Time

	Closed   bool // from this node's history
	ClosedBy *Side
}

// A Side is one version.
type Side struct {
	Version string // names it for Keep
	Value   string // secrets: only that it was changed
	By      string
	Node    site.NodeID
	Site    site.ID
	At      time.Time
	InForce bool
	Was     string // what that side replaced, if this node's history knows; see Known
	Known   bool
	Change  crdt.ID // the change that wrote it; zero: of no single one

	cell crdt.Cell
	saw  crdt.Context
}

const (
	shownSecret  = "(changed; not shown)"
	shownDeleted = "deleted"
	shownEmpty   = "(none)"
	shownIn      = "in"
	shownOut     = "not in"
)

func versionID(d crdt.Dot) string {
	return strconv.FormatUint(uint64(d.Actor), 36) + "-" + strconv.FormatUint(uint64(d.Stamp), 36)
}

type wireCell struct {
	_      struct{} `cbor:",toarray"`
	Kind   string
	Scope  []byte
	Table  uint16
	Record []byte
	Field  []byte
}

func mergeID(kind string, c crdt.Cell) string {
	return base64.RawURLEncoding.EncodeToString(marshal(wireCell{Kind: kind, Scope: []byte(c.Scope), Table: c.Table, Record: []byte(c.Record), Field: []byte(c.Field)}))
}

func parseMergeID(id string) (kind string, c crdt.Cell, err error) {
	b, err := base64.RawURLEncoding.DecodeString(id)
	var w wireCell
	if err != nil || len(id) > 512 || !unmarshal(b, &w) {
		return "", c, fmt.Errorf("merge %.20q: %w", id, ErrNotFound)
	}
	return w.Kind, crdt.Cell{Scope: crdt.Scope(w.Scope), Table: w.Table, Record: string(w.Record), Field: string(w.Field)}, nil
}

// Merges lists what is open, newest first, with what each side replaced; with
// closed, also what this node's history remembers of settled ones.
func (s *State) Merges(closed bool) ([]Merge, error) {
	out := s.Open()
	if err := s.replaced(out); err != nil {
		return nil, err
	}
	if closed && s.cfg.History != nil {
		past, err := s.settled()
		if err != nil {
			return nil, err
		}
		out = append(out, past...)
		sortMerges(out)
	}
	return out, nil
}

// Open lists what is open, newest first, from memory alone.
func (s *State) Open() (out []Merge) {
	s.mu.RLock()
	torn := make([]crdt.Cell, 0, len(s.ix.torn))
	for c := range s.ix.torn {
		torn = append(torn, c)
	}
	deleted := s.deleted()
	s.mu.RUnlock()
	s.cfg.Engine.View(func(v View) {
		for _, c := range torn {
			if m, ok := s.edit(v, c); ok {
				out = append(out, m)
			}
		}
		for _, r := range deleted {
			if m, ok := s.unseenEdits(v, r); ok {
				out = append(out, m)
			}
		}
		out = append(out, s.removed(v)...)
		out = append(out, s.clashes(v)...)
	})
	sortMerges(out)
	return out
}

func sortMerges(ms []Merge) {
	slices.SortFunc(ms, func(a, b Merge) int {
		if d := b.At.Compare(a.At); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// OpenMerges counts what Merges would list, without the removed nodes' changes:
// cheap enough for every status.
func (s *State) OpenMerges() int {
	s.mu.RLock()
	n := len(s.ix.torn) + len(s.ix.clashes)
	deleted := s.deleted()
	s.mu.RUnlock()
	if len(deleted) > 0 {
		s.cfg.Engine.View(func(v View) {
			for _, r := range deleted {
				if _, ok := s.unseenEdits(v, r); ok {
					n++
				}
			}
		})
	}
	return n
}

// deleted lists what was deleted and can be restored. The caller holds mu.
func (s *State) deleted() (out []recordKey) {
	for id, u := range s.ix.users {
		if u.Deleted {
			out = append(out, recordKey{TableUser, id})
		}
	}
	for t, of := range s.ix.records {
		for id, v := range of {
			if reflect.ValueOf(v).FieldByName("Deleted").Bool() {
				out = append(out, recordKey{t, id})
			}
		}
	}
	return out
}

// deletedField is the field that says that a record of a table was deleted.
func deletedField(table uint16) string {
	switch table {
	case TableUser:
		return userDeleted
	case TableDevice:
		return devDeleted
	}
	return headDeleted
}

// side describes a version in words.
func (s *State) side(v View, c crdt.Cell, x crdt.Version) Side {
	_, f := fieldOf(c)
	out := Side{Version: versionID(x.Dot), Value: words(f, c, x.Value), By: s.personOf(v, x.By), Node: site.NodeID(x.Node), At: time.UnixMilli(x.Stamp.Millis()), Change: x.ID, cell: c, saw: x.Ctx}
	out.Site = s.siteOf(out.Node)
	return out
}

// siteOf is the site of a node, whether it is still a member or not.
func (s *State) siteOf(n site.NodeID) site.ID {
	if g := s.cfg.Book.Ever(n); g != nil {
		return g.Site
	}
	return site.ID{}
}

func words(f field, c crdt.Cell, value []byte) string {
	switch {
	case f.secret:
		return shownSecret
	case f.set && isTrue(value):
		return shownIn
	case f.set:
		return shownOut
	case f.policy == True, c.Table == TableUser && (c.Field == userDND || c.Field == userNoMail || c.Field == userAlwaysPIN), c.Table == TableDevice && c.Field == devSHA256:
		return yes(isTrue(value))
	case len(value) == 0 && f.policy == Kept:
		return string(site.Inbox)
	case len(value) == 0:
		return shownEmpty
	case c.Table == TableUser && c.Field == userRing:
		return (time.Duration(toInt(value)) * time.Second).String()
	case c.Table == TableUser && strings.HasPrefix(c.Field, userGreeting):
		return "recording " + hex.EncodeToString(value[:min(len(value), 4)])
	case c.Table == TableSite && c.Field == siteExtLen, c.Table == TablePlacement && c.Field == placeKind:
		return strconv.Itoa(toInt(value))
	}
	if t, ok := shaped(c, value); ok {
		return t
	}
	if c.Table == TableDirectory {
		if e := (wireEntry{}); unmarshal(value, &e) {
			t := strings.TrimSpace(e.Number + " " + e.Name)
			if e.Disabled {
				t += ", disabled"
			}
			return t
		}
	}
	if t := string(value); !strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r == '\uFFFD' }) {
		return t
	}
	return hex.EncodeToString(value[:min(len(value), 16)])
}

// recordWords says what a record is.
func (s *State) recordWords(v View, c crdt.Cell) (string, site.RecordID) {
	t, _ := fieldOf(c)
	set := v.Set(c.Scope)
	user := func(id string) (string, site.RecordID) {
		r := reader{set, TableUser, id}
		return strings.TrimSpace("user " + r.text(userNumber) + " " + r.text(userName)), site.RecordID([]byte(id))
	}
	switch {
	case c.Table == TableUser && len(c.Record) == len(site.RecordID{}):
		return user(c.Record)
	case c.Table == TableDevice:
		if u := (reader{set, TableDevice, c.Record}).bytes(devUser); len(u) == len(site.RecordID{}) {
			name, id := user(string(u))
			return "device of " + name, id
		}
	case c.Table == TableSite:
		r := reader{set, TableSite, c.Record}
		return "site " + r.text(siteCode) + " " + r.text(siteName), site.RecordID{}
	case c.Table == TableNode:
		return "node " + (reader{set, TableNode, c.Record}).text(nodeName), site.RecordID{}
	case c.Table == TableFleet:
		return "fleet " + (reader{set, TableFleet, c.Record}).text(fleetName), site.RecordID{}
	case c.Table == TableMessage && len(c.Record) == len(site.RecordID{}):
		if m, ok := readMessage(reader{set, TableMessage, c.Record}, s.cfg.Site, site.RecordID([]byte(c.Record))); ok {
			name, id := user(string(m.Mailbox[:]))
			return fmt.Sprintf("voicemail of %s from %s at %s", name, strings.TrimSpace(m.From+" "+m.FromName), m.At.UTC().Format("2006-01-02 15:04 UTC")), id
		}
		return "voicemail message", site.RecordID{}
	case byTable[c.Table] != nil:
		return strings.TrimSpace(t.name + " " + (reader{set, c.Table, c.Record}).text(headName)), site.RecordID{}
	}
	return t.name, site.RecordID{}
}

// fieldWords is a field's name; of a set, with the element it is about.
func (s *State) fieldWords(v View, c crdt.Cell) string {
	_, f := fieldOf(c)
	if !f.set || len(c.Field) < 2 {
		return f.name
	}
	e := c.Field[1:]
	if id, err := site.ParseRecordID(e); err == nil {
		if r := (reader{v.Set(s.scope), TableUser, string(id[:])}); r.text(userNumber) != "" {
			e = r.text(userNumber) + " " + r.text(userName)
		}
	}
	return f.name + " " + e
}

// inForce is the version that counts under the field's policy.
func inForce(f field, vs []crdt.Version) (in crdt.Version) {
	switch f.policy {
	case True:
		for _, x := range vs {
			if isTrue(x.Value) {
				in = x
			}
		}
		if in.Stamp == 0 {
			in, _, _ = crdt.Latest(vs)
		}
	case Kept:
		in, _ = crdt.Kept(vs, []byte(site.Trash))
	case LatestReset, Each:
		in, _, _ = crdt.LatestReset(vs)
	default:
		in, _, _ = crdt.Latest(vs)
	}
	return in
}

func (s *State) edit(v View, c crdt.Cell) (Merge, bool) {
	vs := v.Set(c.Scope).Versions(c)
	if len(vs) < 2 {
		return Merge{}, false
	}
	_, f := fieldOf(c)
	m := Merge{ID: mergeID(MergeEdit, c), Kind: MergeEdit, Field: s.fieldWords(v, c), Policy: f.policy, Why: why(f, vs)}
	m.Record, m.User = s.recordWords(v, c)
	if value, ok := both(c, vs); ok {
		m.Both = words(f, c, value)
	}
	in := inForce(f, vs)
	for _, x := range slices.Backward(vs) {
		d := s.side(v, c, x)
		if d.InForce = x.Dot == in.Dot; d.InForce {
			m.InForce = d.Value
		}
		if m.At.Before(d.At) {
			m.At = d.At
		}
		m.Sides = append(m.Sides, d)
	}
	return m, true
}

// unseenEdits finds edits that the delete of a record had not seen.
func (s *State) unseenEdits(v View, of recordKey) (m Merge, ok bool) {
	set := v.Set(s.scope)
	rec, gone := string(of.id[:]), deletedField(of.table)
	r := reader{set, of.table, rec}
	del := crdt.Cell{Scope: s.scope, Table: of.table, Record: rec, Field: gone}
	var saw crdt.Context
	m = Merge{ID: mergeID(MergeDelete, del), Kind: MergeDelete, InForce: shownDeleted, Policy: True,
		Why: "a delete wins over an edit that it had not seen; what was written is kept, and a restore brings it back"}
	for _, x := range r.versions(gone) {
		if isTrue(x.Value) {
			if len(x.Value) == 1 {
				return m, false // of a version of the program that did not say what it saw
			}
			saw = saw.Join(sawOf(x.Value)).With(x.Dot)
			d := s.side(v, del, x)
			d.Value, d.InForce = shownDeleted, true
			m.Sides, m.At = append(m.Sides, d), d.At
		}
	}
	for _, f := range set.Fields(of.table, rec) {
		c := crdt.Cell{Scope: s.scope, Table: of.table, Record: rec, Field: f}
		if f == gone {
			continue
		}
		for _, x := range set.Versions(c) {
			if saw.Covers(x.Dot) {
				continue
			}
			d := s.side(v, c, x)
			d.Value = s.fieldWords(v, c) + ": " + d.Value
			m.Sides = append(m.Sides, d)
			ok = true
		}
	}
	m.Record, m.User = s.recordWords(v, del)
	return m, ok
}

// clashes finds numbers that two users have.
func (s *State) clashes(v View) (out []Merge) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for number, list := range s.ix.clashes {
		m := Merge{ID: mergeID(MergeNumber, crdt.Cell{Record: number}), Kind: MergeNumber, Record: "number " + number, Field: "user", InForce: list[0].Name,
			Why: "each site rings its own; elsewhere, and of two of one site, the one that had the number first", Do: "both go on being reachable; give one of them another number"}
		for _, e := range list {
			code := e.Home.String()
			if x := s.ix.sites[e.Home]; x != nil {
				code = x.Code
			}
			at := time.UnixMilli(e.Written.Millis())
			m.Sides = append(m.Sides, Side{Version: e.User.String(), Value: e.Name + " of site " + code, Site: e.Home, At: at, By: s.enteredBy(v, e), InForce: e == list[0]})
			if m.At.Before(at) {
				m.At = at
			}
			if e.Home == s.cfg.Site && m.User.IsZero() {
				m.User = e.User
				m.InForce = e.Name + " here; " + list[0].Name + " elsewhere"
			}
		}
		out = append(out, m)
	}
	return out
}

// enteredBy is the person whose change the directory's line of a user is from.
func (s *State) enteredBy(v View, e *Entry) string {
	t := TableDirectory
	if e.Kind != UserEntry {
		t = TableService
	}
	c := crdt.Cell{Scope: crdt.Fleet, Table: t, Record: trust.SiteRecord(e.Home, e.User), Field: dirEntry}
	vs := v.Set(crdt.Fleet).Versions(c)
	if len(vs) == 0 {
		return ""
	}
	return s.personOf(v, vs[0].By)
}

// removed lists what revoked nodes and administrators wrote after their
// revocation: valid, since an honest node took it before it heard, but worth a
// look.
func (s *State) removed(v View) (out []Merge) {
	type end struct {
		at  crdt.Stamp
		why string
	}
	nodes, people := map[site.NodeID]end{}, map[crdt.Ref]end{}
	for _, st := range s.cfg.Book.Standings() {
		if st.Revoked != nil {
			nodes[st.Grant.Node()] = end{st.Revoked.Stamp, "a node that was still a member took it before it heard of the revocation"}
		}
	}
	current := map[string]bool{}
	for _, a := range s.cfg.Book.Admins() {
		current[a.Name] = true
	}
	for _, a := range s.cfg.Book.Dismissed() {
		e := end{a.At, "the administrator was revoked already; the box that took it had not heard"}
		id := a.ID()
		people[crdt.Ref(id[:8])] = e
		if r, _ := byRef(a.Name); !current[a.Name] { // at the site's own boxes
			people[r] = e
		}
	}
	if len(nodes)+len(people) == 0 {
		return nil
	}
	for _, scope := range []crdt.Scope{crdt.Fleet, s.scope} {
		set := v.Set(scope)
		for t := range schema {
			for _, rec := range set.Records(t) {
				for _, f := range set.Fields(t, rec) {
					c := crdt.Cell{Scope: scope, Table: t, Record: rec, Field: f}
					for _, x := range set.Versions(c) {
						e, ok := nodes[site.NodeID(x.Node)]
						if !ok || x.Stamp <= e.at {
							if e, ok = people[x.By]; !ok || x.Stamp <= e.at {
								continue
							}
						}
						_, fd := fieldOf(c)
						m := Merge{ID: mergeID(MergeRemoved, c), Kind: MergeRemoved, Field: s.fieldWords(v, c), At: time.UnixMilli(x.Stamp.Millis()), Policy: fd.policy, Why: e.why}
						m.Record, m.User = s.recordWords(v, c)
						d := s.side(v, c, x)
						d.InForce = x.Dot == inForce(fd, set.Versions(c)).Dot
						m.InForce = words(fd, c, inForce(fd, set.Versions(c)).Value)
						m.Sides = []Side{d}
						out = append(out, m)
					}
				}
			}
		}
	}
	return out
}

// Keep settles a merge: that side's value is written again, having seen all.
func (s *State) Keep(ctx context.Context, by, id, version string) error {
	fail := func(err error) error { return fmt.Errorf("keep %.80s: %w", version, err) }
	kind, c, err := parseMergeID(id)
	if err != nil {
		return fail(err)
	}
	if kind == MergeNumber {
		return fail(fmt.Errorf("%w: two users have one number; give one of them another number", ErrInvalid))
	}
	if c.Scope != s.scope && c.Scope != crdt.Fleet {
		return fail(ErrOtherSite)
	}
	s.write.Lock()
	defer s.write.Unlock()
	m := Mutation{Scope: c.Scope}
	w := crdt.Write{Table: c.Table, Record: c.Record, Field: c.Field}
	err = fmt.Errorf("%w: it was settled meanwhile, or names another side", ErrNotFound)
	s.cfg.Engine.View(func(v View) {
		set := v.Set(c.Scope)
		ref, more := s.person(v, by)
		m.By = ref
		if c.Scope == s.scope {
			m.Writes = more
		}
		r := reader{set, c.Table, c.Record}
		if version == KeepBoth {
			err = fmt.Errorf("%w: the two exclude each other, or one says it all; keep one of them", ErrInvalid)
			if value, ok := both(c, set.Versions(c)); ok && kind == MergeEdit {
				w.Value, err = value, nil
			}
			return
		}
		for _, x := range set.Versions(c) {
			if versionID(x.Dot) == version {
				w.Value, w.Flags, err = x.Value, x.Flags&crdt.Reset, nil
				if kind == MergeDelete || c.Field == deletedField(c.Table) && isTrue(x.Value) {
					w.Value = deletedValue(r.seen())
				}
			}
		}
		if kind != MergeDelete || err == nil {
			return
		}
		for _, f := range set.Fields(c.Table, c.Record) { // an edit: the record is restored with it
			for _, x := range set.Versions(crdt.Cell{Table: c.Table, Record: c.Record, Field: f}) {
				if versionID(x.Dot) == version {
					w.Value, err = boolValue(false), nil
				}
			}
		}
	})
	if err != nil {
		return fail(err)
	}
	m.Writes = append(m.Writes, w)
	if _, err := s.commit(ctx, m); err != nil {
		return fail(err)
	}
	if (c.Table == TableUser || c.Table == TableGroup || c.Table == TableMenu) && len(c.Record) == len(site.RecordID{}) {
		s.follow(ctx, site.RecordID([]byte(c.Record)))
	}
	return nil
}
