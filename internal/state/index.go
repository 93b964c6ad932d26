package state

import (
	"bytes"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// index is what calls look up, guarded by State.mu. What its pointers point at
// never changes; a merge replaces it.
type index struct {
	fleetName, domain string

	sites  map[site.ID]*Site
	codes  map[string]*Site
	nodes  map[site.NodeID]*Node
	places map[site.FeatureName]site.Placement

	listing

	roaming map[site.RecordID]site.ID // the site that a user's telephones visit
	keepers map[site.ID]Keeping       // of this state's site

	users    map[site.RecordID]*User // of the own site, deleted ones too
	devices  map[site.RecordID]*device
	phones   map[site.RecordID][]site.RecordID // user → devices
	messages map[site.RecordID]*site.Message
	boxes    map[site.RecordID]map[site.RecordID]*site.Message
	audio    map[site.BlobRef]map[site.RecordID]*site.Message

	records  map[uint16]map[site.RecordID]any // what administrators keep, by table
	services map[string]*Entry                // groups and menus, by directory record

	torn map[crdt.Cell]struct{} // cells with versions of different value
}

func newIndex() index {
	return index{sites: map[site.ID]*Site{}, codes: map[string]*Site{}, nodes: map[site.NodeID]*Node{}, places: map[site.FeatureName]site.Placement{},
		listing: newListing(), roaming: map[site.RecordID]site.ID{},
		users: map[site.RecordID]*User{}, devices: map[site.RecordID]*device{}, phones: map[site.RecordID][]site.RecordID{},
		messages: map[site.RecordID]*site.Message{}, boxes: map[site.RecordID]map[site.RecordID]*site.Message{},
		audio: map[site.BlobRef]map[site.RecordID]*site.Message{}, torn: map[crdt.Cell]struct{}{},
		keepers: map[site.ID]Keeping{}, records: map[uint16]map[site.RecordID]any{}, services: map[string]*Entry{}}
}

// load reads everything. The caller holds fill; s.mu is taken inside, which is
// safe because nobody calls the engine with it held.
func (s *State) load(v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, scope := range []crdt.Scope{crdt.Fleet, s.scope} {
		set := v.Set(scope)
		for t := range schema {
			for _, rec := range set.Records(t) {
				if s.foreign(scope, t, rec) {
					continue
				}
				s.index(v, scope, t, rec)
				for _, f := range set.Fields(t, rec) {
					s.tear(set, crdt.Cell{Scope: scope, Table: t, Record: rec, Field: f})
				}
			}
		}
	}
	s.openKeys(v)
}

// refresh reads the records of the cells again, whatever they say now: so it
// does not matter in which order news arrives.
func (s *State) refresh(scope crdt.Scope, cells []crdt.Cell) {
	if scope != crdt.Fleet && scope != s.scope {
		return
	}
	type record struct {
		table uint16
		rec   string
	}
	seen := map[record]bool{}
	var lamps map[site.RecordID]bool
	s.fill.Lock()
	s.cfg.Engine.View(func(v View) {
		s.mu.Lock()
		defer s.mu.Unlock()
		set := v.Set(scope)
		keys := false
		for _, c := range cells {
			if s.foreign(scope, c.Table, c.Record) {
				continue
			}
			if c.Field != "" {
				s.tear(set, crdt.Cell{Scope: scope, Table: c.Table, Record: c.Record, Field: c.Field})
			}
			if r := (record{c.Table, c.Record}); !seen[r] {
				seen[r] = true
				if m, ok := s.index(v, scope, c.Table, c.Record); ok {
					if lamps == nil {
						lamps = map[site.RecordID]bool{}
					}
					lamps[m] = true
				}
			}
			keys = keys || c.Table == TableWrap || c.Table == TableKey
		}
		if keys && scope == s.scope {
			s.openKeys(v)
		}
	})
	s.fill.Unlock()
	s.mu.RLock()
	subs := s.subs
	s.mu.RUnlock()
	for m := range lamps {
		for _, fn := range subs {
			fn(m)
		}
	}
}

// foreign says whether a record of the fleet does not concern a keeper.
func (s *State) foreign(scope crdt.Scope, t uint16, rec string) bool {
	if !s.cfg.Keeper || scope != crdt.Fleet || t != TableDirectory && t != TableService && t != TableRoam {
		return false
	}
	return !strings.HasPrefix(rec, string(s.cfg.Site[:trust.PrefixSize]))
}

// spare, deferred, leaves a record out on which this program fails: one record
// must not keep a box from starting. The caller holds s.mu.
func (s *State) spare(scope crdt.Scope, t uint16, rec string) {
	p := recover()
	if p == nil {
		return
	}
	s.cfg.Log.Error("A record made this program fail, it is left out", "scope", scope, "table", t, "record", fmt.Sprintf("%x", rec), "panic", p, "stack", string(debug.Stack()))
	if s.unread == nil {
		s.unread = map[string]bool{}
	}
	if len(s.unread) < maxUnread {
		s.unread[fmt.Sprintf("record %x of table %d is left out, because this program fails on it: %.200v", rec, t, p)] = true
	}
}

// maxUnread bounds the sentences about records on which this program fails.
const maxUnread = 100

// Unread says in words which records this program failed on since the start, and
// does not show or use; sorted.
func (s *State) Unread() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.unread))
}

// tear notes whether a cell has versions that say different things.
func (s *State) tear(set *crdt.Set, c crdt.Cell) {
	defer s.spare(c.Scope, c.Table, c.Record)
	if _, f := fieldOf(c); f.policy != Derived {
		if vs := set.Versions(c); len(vs) > 1 && slices.ContainsFunc(vs, func(v crdt.Version) bool { return !sameValue(f, v.Value, vs[0].Value) }) {
			s.ix.torn[c] = struct{}{}
			return
		}
	}
	delete(s.ix.torn, c)
}

// sameValue: two truths are one even if one of them says more (what a delete saw).
func sameValue(f field, a, b []byte) bool {
	if f.policy == True {
		return isTrue(a) == isTrue(b)
	}
	return bytes.Equal(a, b)
}

// index reads one record. It returns the mailbox whose lamp may have changed.
func (s *State) index(v View, scope crdt.Scope, t uint16, rec string) (mailbox site.RecordID, lamp bool) {
	defer s.spare(scope, t, rec)
	if s.cfg.plant != nil {
		s.cfg.plant(t, rec)
	}
	r := reader{v.Set(scope), t, rec}
	if scope == crdt.Fleet {
		switch t {
		case TableFleet:
			s.ix.fleetName, s.ix.domain = r.text(fleetName), strings.ToLower(r.text(fleetDomain))
		case TablePlacement:
			s.ix.places[site.FeatureName(r.text(placeName))] = site.Placement{Kind: site.PlacementKind(r.number(placeKind)), URI: r.text(placeURI)}
		case TableSite:
			s.indexSite(r)
		case TableNode:
			s.indexNode(r)
		case TableDirectory:
			s.indexEntry(r)
		case TableService:
			s.indexService(r)
		case TableRoam:
			s.indexRoam(r)
		}
		return mailbox, false
	}
	if t == trust.TableKeeper {
		s.indexKeeper(r)
		return mailbox, false
	}
	if len(rec) != len(site.RecordID{}) {
		return mailbox, false
	}
	switch id := site.RecordID([]byte(rec)); t {
	case TableUser:
		s.indexUser(r, id)
	case TableDevice:
		s.indexDevice(r, id)
	case TableMessage:
		return s.indexMessage(r, id)
	default:
		s.indexRecord(r, id)
	}
	return mailbox, false
}

func (s *State) indexEntry(r reader) {
	s.ix.drop(r.rec)
	if e, ok := readEntry(r); ok {
		s.ix.put(e)
	}
}

// indexService does the same for groups and menus, which are nobody.
func (s *State) indexService(r reader) {
	if old := s.ix.services[r.rec]; old != nil {
		delete(s.ix.services, r.rec)
		s.ix.unclaim(old)
	}
	if e, ok := readEntry(r); ok && e.Kind != UserEntry {
		s.ix.services[r.rec] = e
		s.ix.claim(e)
	}
}
