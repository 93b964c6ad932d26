package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

type (
	// FleetID is the hash of the fleet's root key.
	FleetID [32]byte
	// NodeID is the first 16 bytes of SHA-256 of a node's Ed25519 key.
	NodeID [16]byte
	// ActorID names one lineage of one node: the first 8 bytes (big endian) of
	// SHA-256(node ‖ actor).
	ActorID uint64
	// ID names a change: SHA-256 of its bytes without the signature.
	ID [32]byte
	// Ref is the short name of a grant, person, token or system rule.
	Ref [8]byte
)

func (i ID) String() string  { return hex.EncodeToString(i[:8]) }
func (r Ref) String() string { return hex.EncodeToString(r[:]) }

// MakeActor derives the ActorID of a node's lineage.
func MakeActor(node NodeID, actor uint32) ActorID {
	var b [20]byte
	copy(b[:], node[:])
	binary.BigEndian.PutUint32(b[16:], actor)
	sum := sha256.Sum256(b[:])
	return ActorID(binary.BigEndian.Uint64(sum[:]))
}

// Stamp is a hybrid logical clock (Kulkarni et al., 2014): 48 bits of
// milliseconds since 1970, 16 bits of counter.
type Stamp uint64

// MakeStamp puts a stamp together.
func MakeStamp(ms int64, n uint16) Stamp {
	return Stamp(uint64(max(ms, 0))<<16 | uint64(n))
}

// Millis is the stamp's time in milliseconds since 1970.
func (s Stamp) Millis() int64 { return int64(s >> 16) }

// NextStamp is the least stamp after last that is not behind wall.
func NextStamp(last Stamp, wallMillis int64) Stamp {
	return max(last+1, MakeStamp(wallMillis, 0))
}

// Scope says how far a change travels. Its bytes are what is signed.
type Scope string

const (
	Trust Scope = "t" // all nodes: roots, grants, revocations; sent first
	Fleet Scope = "f" // all nodes: directory, dial plan
)

// SiteScope is the scope of one site's own data.
func SiteScope(id [10]byte) Scope { return Scope("s" + string(id[:])) }

// Site returns the site of a site scope.
func (s Scope) Site() (id [10]byte, ok bool) {
	if len(s) != 11 || s[0] != 's' {
		return id, false
	}
	copy(id[:], s[1:])
	return id, true
}

// Valid says whether s is a scope at all.
func (s Scope) Valid() bool {
	_, site := s.Site()
	return s == Trust || s == Fleet || site
}

var scopeText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String is for people; the wire form is the string itself.
func (s Scope) String() string {
	id, ok := s.Site()
	switch {
	case s == Trust:
		return "trust"
	case s == Fleet:
		return "fleet"
	case ok:
		return "site:" + scopeText.EncodeToString(id[:])
	}
	return "invalid"
}

// Compare orders scopes as they are exchanged: trust, sites, fleet.
func (s Scope) Compare(o Scope) int {
	rank := func(x Scope) int {
		switch {
		case x == Trust:
			return 0
		case x == Fleet:
			return 2
		}
		return 1
	}
	if d := rank(s) - rank(o); d != 0 {
		return d
	}
	return bytes.Compare([]byte(s), []byte(o))
}

// A Dot names one write of one actor: unique, unless somebody cheats.
type Dot struct {
	Actor ActorID
	Stamp Stamp
}

// A Context says which dots a writer had seen: for each actor the greatest
// stamp, sorted by actor.
type Context []Dot

// Get returns the greatest stamp of an actor, 0 if it was never seen.
func (c Context) Get(a ActorID) Stamp {
	if i, ok := slices.BinarySearchFunc(c, a, func(d Dot, a ActorID) int {
		switch {
		case d.Actor < a:
			return -1
		case d.Actor > a:
			return 1
		}
		return 0
	}); ok {
		return c[i].Stamp
	}
	return 0
}

// Covers says whether d was seen.
func (c Context) Covers(d Dot) bool { return c.Get(d.Actor) >= d.Stamp }

// Join is the least context that covers what c and o cover.
func (c Context) Join(o Context) Context {
	out := make(Context, 0, len(c)+len(o))
	i, j := 0, 0
	for i < len(c) || j < len(o) {
		switch {
		case j == len(o) || (i < len(c) && c[i].Actor < o[j].Actor):
			out = append(out, c[i])
			i++
		case i == len(c) || o[j].Actor < c[i].Actor:
			out = append(out, o[j])
			j++
		default:
			out = append(out, Dot{c[i].Actor, max(c[i].Stamp, o[j].Stamp)})
			i++
			j++
		}
	}
	return out
}

// With is c and one dot more.
func (c Context) With(d Dot) Context { return c.Join(Context{d}) }

// Max is the greatest stamp in c.
func (c Context) Max() (s Stamp) {
	for _, d := range c {
		s = max(s, d.Stamp)
	}
	return s
}

func (c Context) sorted() bool {
	for i := 1; i < len(c); i++ {
		if c[i-1].Actor >= c[i].Actor {
			return false
		}
	}
	return true
}
