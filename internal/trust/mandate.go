package trust

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// Who may claim that a user of a site roams: the site's own nodes and, while
// they cannot be reached, those of a keeper: a site that the first one named as
// holder of its state. The keeper proves it with the very change that named it,
// so that everybody judges by bytes and grants alone.
const (
	// TableRoam is where a user's telephones are, in the fleet scope; record:
	// SiteRecord(home, user).
	TableRoam = FleetSites + 3
	// TableKeeper names the sites that hold a site's state besides itself, in
	// its own scope; record: the other site's id.
	TableKeeper = SiteOwn + 15
	// KeeperField is 1 while the site is a keeper.
	KeeperField = "\x01"
	// ExtMandate is the signed extra of a roam claim by a keeper: the change
	// that named it, as a byte string.
	ExtMandate = 1
)

// MandateExt makes the extra from the change that named the keeper.
func MandateExt(named []byte) (map[uint64][]byte, error) {
	b, err := cbor.Marshal(named)
	if err != nil {
		return nil, fmt.Errorf("encode a mandate: %w", err)
	}
	return map[uint64][]byte{ExtMandate: b}, nil
}

// mandated says whether the holder of g may write w for another site.
//
// A mandate cannot be taken back by an instant: a site that was a keeper once
// can go on to claim until its boxes are revoked. Whether who signed the mandate
// was revoked since is not asked, because not all would answer alike.
func (b *Book) mandated(g *Grant, c *crdt.Change, w *crdt.Write) error {
	ext, ok := c.Ext[ExtMandate]
	if !ok || c.Scope != crdt.Fleet || w.Table != TableRoam || w.Flags&crdt.Final != 0 {
		return fmt.Errorf("%w: no mandate", ErrForbidden)
	}
	var raw []byte
	if err := cbor.Unmarshal(ext, &raw); err != nil {
		return fmt.Errorf("%w: the mandate is no change: %w", ErrForbidden, err)
	}
	m, err := crdt.Decode(raw)
	if err != nil {
		return fmt.Errorf("%w: the mandate is no change: %w", ErrForbidden, err)
	}
	home, ok := m.Scope.Site()
	if !ok || len(w.Record) < PrefixSize || w.Record[:PrefixSize] != string(home[:PrefixSize]) {
		return fmt.Errorf("%w: the mandate is another site's", ErrForbidden)
	}
	own, ok := b.auth(m)
	switch {
	case !ok:
		return fmt.Errorf("the mandate of site %s: %w", site.ID(home), ErrUnknown)
	case own.Site != site.ID(home):
		return fmt.Errorf("%w: the mandate was not given by its site", ErrForbidden)
	case !m.Verify(b.fleet, own.Key):
		return fmt.Errorf("%w: the mandate's signature is wrong", ErrForbidden)
	}
	for _, x := range m.Writes {
		if x.Table == TableKeeper && x.Record == string(g.Site[:]) && x.Field == KeeperField && string(x.Value) == "\x01" {
			return nil
		}
	}
	return fmt.Errorf("%w: the mandate is for another site", ErrForbidden)
}

// may is what the grant allows, or a mandate, or an administrator's session.
func (b *Book) may(g *Grant, c *crdt.Change, w *crdt.Write) error {
	err := g.may(c.Scope, w)
	if errors.Is(err, ErrForbidden) && c.Ext[ExtMandate] != nil {
		return b.mandated(g, c, w)
	}
	if errors.Is(err, ErrForbidden) && c.Ext[ExtSession] != nil && g.ID() != c.Auth {
		return b.session(c, w)
	}
	return err
}
