package state

import (
	"encoding/base64"
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A token (ETag) says what a person saw of a user and its devices: for every
// cell the context of its versions. A write that carries it covers exactly
// that; what others wrote meanwhile stays, as a visible conflict.
type wireToken struct {
	_     struct{} `cbor:",toarray"`
	User  []byte
	Seen  [][][2]uint64 // the contexts; many cells share one
	Cells []wireSeen
}

type wireSeen struct {
	_      struct{} `cbor:",toarray"`
	Table  uint16
	Record []byte
	Field  []byte
	Ctx    int // index into Seen
}

const maxToken = 16 << 10

// aheadLimit is how far a stamp may be ahead of the clock (state.md §5 e).
const aheadLimit = 5 * time.Minute

// recordKey names a record of the own site.
type recordKey struct {
	table uint16
	id    site.RecordID
}

// etag makes the token of a user and its devices.
func (s *State) etag(v View, user site.RecordID, devices []site.RecordID) string {
	of := []recordKey{{TableUser, user}}
	for _, d := range devices {
		of = append(of, recordKey{TableDevice, d})
	}
	return s.tag(v, user, of...)
}

// tag makes the token of some records of the own site; id is the first one's.
func (s *State) tag(v View, id site.RecordID, of ...recordKey) string {
	set := v.Set(s.scope)
	w := wireToken{User: id[:], Seen: [][][2]uint64{}, Cells: []wireSeen{}}
	index := map[string]int{}
	for _, x := range of {
		for _, f := range set.Fields(x.table, string(x.id[:])) {
			ctx := set.Known(crdt.Cell{Table: x.table, Record: string(x.id[:]), Field: f})
			c := make([][2]uint64, len(ctx))
			for i, d := range ctx {
				c[i] = [2]uint64{uint64(d.Actor), uint64(d.Stamp)}
			}
			key := string(marshal(c))
			n, ok := index[key]
			if !ok {
				n = len(w.Seen)
				index[key] = n
				w.Seen = append(w.Seen, c)
			}
			w.Cells = append(w.Cells, wireSeen{Table: x.table, Record: x.id[:], Field: []byte(f), Ctx: n})
		}
	}
	return base64.RawURLEncoding.EncodeToString(marshal(w))
}

// token reads a user's ETag; "" is nil: whatever is here.
func (s *State) token(user site.RecordID, etag string) (map[crdt.Cell]crdt.Context, error) {
	return s.tokenOf(TableUser, user, etag)
}

func (s *State) tokenOf(table uint16, user site.RecordID, etag string) (map[crdt.Cell]crdt.Context, error) {
	return s.tokenIn(s.scope, table, user, etag)
}

func (s *State) tokenIn(scope crdt.Scope, table uint16, user site.RecordID, etag string) (map[crdt.Cell]crdt.Context, error) {
	if etag == "" {
		return nil, nil
	}
	bad := func(why string) error { return fmt.Errorf("%w: %s; read the record again", ErrToken, why) }
	if len(etag) > maxToken {
		return nil, bad("it is too long")
	}
	b, err := base64.RawURLEncoding.DecodeString(etag)
	var w wireToken
	if err != nil || !unmarshal(b, &w) {
		return nil, bad("it cannot be read")
	}
	if string(w.User) != string(user[:]) {
		return nil, bad("it is another record's")
	}
	limit := crdt.MakeStamp(s.cfg.Now().Add(aheadLimit).UnixMilli(), 0)
	s.cfg.Engine.View(func(v View) {
		r := reader{v.Set(scope), table, string(user[:])}
		limit = max(limit, r.seen().Max())
	})
	seen := make([]crdt.Context, len(w.Seen))
	for i, c := range w.Seen {
		for _, d := range c {
			if crdt.Stamp(d[1]) > limit { // it would drag this node's clock along
				return nil, bad("it is from the future")
			}
			seen[i] = seen[i].With(crdt.Dot{Actor: crdt.ActorID(d[0]), Stamp: crdt.Stamp(d[1])})
		}
	}
	out := make(map[crdt.Cell]crdt.Context, len(w.Cells))
	for _, c := range w.Cells {
		if c.Ctx < 0 || c.Ctx >= len(seen) {
			return nil, bad("it cannot be read")
		}
		out[crdt.Cell{Scope: scope, Table: c.Table, Record: string(c.Record), Field: string(c.Field)}] = seen[c.Ctx]
	}
	return out, nil
}
