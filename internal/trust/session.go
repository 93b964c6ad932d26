package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A Session lets one box write for an administrator who logged in there. It
// carries the administrator's record, so that everybody judges a change by its
// bytes and by the grants alone (state.md §7). The change is written under the
// session's name instead of the grant's: a version that knows no sessions holds
// it until it is updated, and drops no link.
type Session struct {
	Admin      *Admin
	Node       site.NodeID // the box; no other may use it
	Grant      crdt.Ref    // of the box
	Start, End int64       // milliseconds since 1970; the stamps that it covers

	raw []byte
}

const (
	// ExtSession is the signed extra of a change that a box writes for an
	// administrator: the session, as one CBOR array.
	ExtSession = 2
	// MaxSession is how long one log-in holds.
	MaxSession = 12 * time.Hour
	// sessionSlack is by how much the box's clock may differ from that of the
	// log-in: as much as a change's stamp may be ahead.
	sessionSlack = 5 * time.Minute

	maxSession  = 1024
	sessionWhat = "ccnode session 1"
)

type wireSession struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Admin   []byte
	Node    []byte
	Grant   []byte
	Start   int64
	End     int64
	Sig     []byte
}

func (s *Session) wire(sig []byte) []byte {
	return marshal(wireSession{Version: 1, Admin: s.Admin.raw, Node: s.Node[:], Grant: s.Grant[:], Start: s.Start, End: s.End, Sig: sig})
}

// LogIn signs a session with the administrator's key; the caller drops the key.
// end is at most MaxSession after start.
func LogIn(fleet crdt.FleetID, a *Admin, key ed25519.PrivateKey, box *Grant, start, end time.Time) (*Session, error) {
	s := &Session{Admin: a, Node: box.Node(), Grant: box.ID(), Start: start.UnixMilli(), End: end.UnixMilli()}
	if !key.Public().(ed25519.PublicKey).Equal(a.Key) {
		return nil, fmt.Errorf("log in as %q: %w: it is another key", a.Name, ErrSealed)
	}
	return DecodeSession(s.wire(ed25519.Sign(key, signed(sessionWhat, fleet, s.wire([]byte{})))))
}

// Ext is the extra of the changes that the box writes in the session.
func (s *Session) Ext() map[uint64][]byte { return map[uint64][]byte{ExtSession: s.raw} }

// Auth is what those changes are written under.
func (s *Session) Auth() crdt.Ref { return RefOf(s.raw) }

// By is who the changes are by.
func (s *Session) By() crdt.Ref { id := s.Admin.ID(); return crdt.Ref(id[:8]) }

// Bytes is the session as it is sent.
func (s *Session) Bytes() []byte { return bytes.Clone(s.raw) }

// CheckSession says whether a box may ask a site for whom a session names, at
// that time. The session's own box asks; ErrForbidden, ErrRevoked and ErrUnknown
// say why not.
func (b *Book) CheckSession(s *Session, box site.NodeID, of site.ID, now time.Time) error {
	if _, err := b.Member(box); err != nil {
		return err
	}
	a, err := b.Admin(s.Admin.ID())
	if err != nil {
		return err
	}
	at, slack := now.UnixMilli(), sessionSlack.Milliseconds()
	switch {
	case !s.signature(b.fleet):
		return fmt.Errorf("%w: administrator %q did not sign the session", ErrForbidden, s.Admin.Name)
	case s.Node != box:
		return fmt.Errorf("%w: the session of %q is for node %s, not for %s", ErrForbidden, s.Admin.Name, s.Node, box)
	case at < s.Start-slack || at > s.End+slack:
		return fmt.Errorf("%w: the session of %q does not cover this time; log in again", ErrForbidden, s.Admin.Name)
	case !a.Fleet && !slices.Contains(a.Sites, of):
		return fmt.Errorf("%w: %q is an administrator of other sites", ErrForbidden, a.Name)
	}
	return nil
}

// DecodeSession reads the shape of a session.
func DecodeSession(b []byte) (*Session, error) {
	var w wireSession
	if len(b) > maxSession {
		return nil, fmt.Errorf("session: %w: %d bytes", ErrMalformed, len(b))
	}
	if err := decMode.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("session: %w: %w", ErrMalformed, err)
	}
	s := &Session{Start: w.Start, End: w.End, raw: bytes.Clone(b)}
	if w.Version != 1 || len(w.Node) != len(s.Node) || len(w.Grant) != len(s.Grant) || len(w.Sig) != ed25519.SignatureSize {
		return nil, fmt.Errorf("session: %w: version %d, or a name of the wrong length", ErrMalformed, w.Version)
	}
	// A stamp has 48 bits of milliseconds: no time that a clock can show overflows.
	if w.Start < 0 || w.End <= w.Start || w.End >= 1<<48 || w.End-w.Start > MaxSession.Milliseconds() {
		return nil, fmt.Errorf("session: %w: from %d to %d, at most %s", ErrMalformed, w.Start, w.End, MaxSession)
	}
	copy(s.Node[:], w.Node)
	copy(s.Grant[:], w.Grant)
	var err error
	if s.Admin, err = DecodeAdmin(w.Admin); err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	if !bytes.Equal(s.wire(w.Sig), b) {
		return nil, fmt.Errorf("session: %w: its encoding is not the deterministic one", ErrMalformed)
	}
	return s, nil
}

func (s *Session) signature(fleet crdt.FleetID) bool {
	sig := s.raw[len(s.raw)-ed25519.SignatureSize:] // the last element of the array
	return ed25519.Verify(s.Admin.Key, signed(sessionWhat, fleet, s.wire([]byte{})), sig)
}

// sessionGrant finds the grant of the box that wrote a change under a session.
func (b *Book) sessionGrant(c *crdt.Change) (*Grant, bool) {
	s, err := DecodeSession(c.Ext[ExtSession])
	if err != nil || s.Auth() != c.Auth {
		return nil, false
	}
	g, ok := b.Grant(s.Grant)
	return g, ok && g.Node() == site.NodeID(c.Node)
}

// session says whether the session in a change lets its box make the write.
func (b *Book) session(c *crdt.Change, w *crdt.Write) error {
	s, err := DecodeSession(c.Ext[ExtSession])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	if err := b.checkAdmin(s.Admin); err != nil {
		return err
	}
	at, slack := c.Stamp.Millis(), sessionSlack.Milliseconds()
	switch {
	case !s.signature(b.fleet):
		return fmt.Errorf("%w: administrator %q did not sign the session", ErrForbidden, s.Admin.Name)
	case s.Node != site.NodeID(c.Node):
		return fmt.Errorf("%w: the session of %q is for node %s, not for %s", ErrForbidden, s.Admin.Name, s.Node, site.NodeID(c.Node))
	case at < s.Start-slack || at > s.End+slack:
		return fmt.Errorf("%w: the session of %q does not cover that time; log in again", ErrForbidden, s.Admin.Name)
	case c.By != s.By():
		return fmt.Errorf("%w: the change is not by %q, whose session it shows", ErrForbidden, s.Admin.Name)
	}
	return s.Admin.may(c.Scope, w)
}

// may is what an administrator may write of other sites. The keys of a site, its
// invites, its keepers and purges stay with the site's own boxes: a box that
// somebody logged in at must not be able to make itself a holder of secrets.
func (a *Admin) may(scope crdt.Scope, w *crdt.Write) error {
	no := func(why string) error {
		return fmt.Errorf("%w: administrator %q, table %#x of %s: %s", ErrForbidden, a.Name, w.Table, scope, why)
	}
	if w.Flags&crdt.Final != 0 {
		return no("only the site's own boxes remove for good")
	}
	of, ok := scope.Site()
	switch {
	case !ok && a.Fleet && scope == crdt.Fleet && w.Table&0xff00 == FleetSettings:
		return nil
	case !ok:
		return no("it wants the box's own rights")
	case !a.Fleet && !slices.Contains(a.Sites, site.ID(of)):
		return no("an administrator of other sites")
	case w.Table&0xff00 != SiteOwn && w.Table&0xff00 != SiteDrops:
		return fmt.Errorf("%w: table %#x of %s", errNoRule, w.Table, scope)
	case w.Table > TableKeeper && w.Table < SiteDrops: // may hold secrets
		return fmt.Errorf("%w: table %#x of %s", errNoRule, w.Table, scope)
	case w.Table >= SiteOwn+2 && w.Table <= SiteOwn+6, w.Table == TableKeeper:
		return no("only the site's own boxes write invites, keys and keepers")
	}
	return nil
}
