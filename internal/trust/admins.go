package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"carrierclass.net/ccnode/crdt"
)

// Fields of TableAdmin. Each value vouches for itself. The end of an
// administrator is no final but a field that can be written with one meaning
// only: versions that do not know it hold it, instead of refusing it.
const (
	AdminRecord  = "\x01" // Admin.Encode
	AdminKey     = "\x02" // the sealed key, signed with the key itself
	AdminRevoked = "\x03" // Admin.Encode, of the one who is no administrator any more
)

type wireAdminKey struct {
	_      struct{} `cbor:",toarray"`
	Key    []byte
	Sealed []byte
	Sig    []byte
}

const adminKeyWhat = "ccnode admin sealed 1"

// AdminKeyWrite is a sealed key as a write in the trust scope: at first, and when
// the password is changed.
func AdminKeyWrite(fleet crdt.FleetID, key ed25519.PrivateKey, sealed []byte) crdt.Write {
	pub := key.Public().(ed25519.PublicKey)
	id := NodeID(pub)
	v := marshal(wireAdminKey{Key: pub, Sealed: sealed, Sig: ed25519.Sign(key, signed(adminKeyWhat, fleet, sealed))})
	return crdt.Write{Table: TableAdmin, Record: string(id[:]), Field: AdminKey, Value: v}
}

// SealedKey reads such a value: only the administrator can have made it.
func SealedKey(fleet crdt.FleetID, id AdminID, value []byte) ([]byte, error) {
	var w wireAdminKey
	if err := decMode.Unmarshal(value, &w); err != nil {
		return nil, fmt.Errorf("key of administrator %s: %w: %w", id, ErrMalformed, err)
	}
	if len(w.Key) != ed25519.PublicKeySize || NodeID(w.Key) != id || !bytes.Equal(marshal(w), value) ||
		!ed25519.Verify(w.Key, signed(adminKeyWhat, fleet, w.Sealed), w.Sig) {
		return nil, fmt.Errorf("key of administrator %s: %w: the administrator did not sign it", id, ErrForbidden)
	}
	if _, err := decodeSealedKey(w.Sealed); err != nil {
		return nil, err
	}
	return w.Sealed, nil
}

// AdminWrite is an administrator's record as a write in the trust scope.
func AdminWrite(a *Admin) crdt.Write { return adminWrite(a, AdminRecord) }

// RevokeAdminWrite ends an administrator. Whoever may appoint one may end one.
func RevokeAdminWrite(a *Admin) crdt.Write { return adminWrite(a, AdminRevoked) }

func adminWrite(a *Admin, field string) crdt.Write {
	id := a.ID()
	return crdt.Write{Table: TableAdmin, Record: string(id[:]), Field: field, Value: a.Encode()}
}

// adminIn reads an administrator's record from a write under its name.
func adminIn(w *crdt.Write) (*Admin, error) {
	a, err := DecodeAdmin(w.Value)
	if err != nil {
		return nil, err
	}
	if id := a.ID(); w.Record != string(id[:]) {
		return nil, fmt.Errorf("%w: administrator %s under another name", ErrForbidden, id)
	}
	return a, nil
}

// mayAdmin judges a write to TableAdmin by a node with grant g.
func (b *Book) mayAdmin(g *Grant, w *crdt.Write) error {
	switch w.Field {
	case AdminRecord, AdminRevoked:
		a, err := adminIn(w)
		if err == nil {
			err = b.checkAdmin(a)
		}
		if err == nil && w.Field == AdminRevoked {
			err = g.mayAppoint(a)
		}
		return err
	case AdminKey:
		if len(w.Record) != len(AdminID{}) {
			return fmt.Errorf("key of an administrator: %w: a name of %d bytes", ErrMalformed, len(w.Record))
		}
		_, err := SealedKey(b.fleet, AdminID([]byte(w.Record)), w.Value)
		return err
	}
	return fmt.Errorf("%w: field %x of an administrator", errNoRule, w.Field)
}

// learnAdmin takes an accepted write. Of two records of one administrator the
// one with the lesser bytes counts everywhere; none gives more than its issuer
// could.
func (b *Book) learnAdmin(w *crdt.Write, at crdt.Stamp) {
	if w.Field != AdminRecord && w.Field != AdminRevoked {
		return
	}
	a, err := adminIn(w)
	if err != nil || b.checkAdmin(a) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id := a.ID()
	if have := b.admins[id]; have == nil || bytes.Compare(a.raw, have.raw) < 0 {
		b.admins[id] = a
	}
	if w.Field == AdminRevoked {
		if was, ok := b.adminsOut[id]; !ok || at < was {
			b.adminsOut[id] = at
		}
	}
}

// Admins lists the administrators in force, by name. One whose issuer was
// revoked is none: powers that a revoked node gave out are void.
func (b *Book) Admins() (out []*Admin) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for id := range b.admins {
		if a, err := b.admin(id); err == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(x, y *Admin) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 {
			return c
		}
		return bytes.Compare(x.Key, y.Key)
	})
	return out
}

// A Dismissed administrator was revoked at that stamp.
type Dismissed struct {
	*Admin
	At crdt.Stamp
}

// Dismissed lists the administrators that were revoked themselves.
func (b *Book) Dismissed() (out []Dismissed) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for id, at := range b.adminsOut {
		if a := b.admins[id]; a != nil {
			out = append(out, Dismissed{a, at})
		}
	}
	return out
}

// AdminRef returns who wrote under a session, in force or not; nil: nobody known.
func (b *Book) AdminRef(by crdt.Ref) *Admin {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for id, a := range b.admins {
		if crdt.Ref(id[:8]) == by {
			return a
		}
	}
	return nil
}

// Admin returns one in force. ErrRevoked: no session of it may be used to write
// any more.
func (b *Book) Admin(id AdminID) (*Admin, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.admin(id)
}

func (b *Book) admin(id AdminID) (*Admin, error) {
	a := b.admins[id]
	if a == nil {
		return nil, fmt.Errorf("administrator %s: %w", id, ErrUnknown)
	}
	if _, out := b.adminsOut[id]; out {
		return nil, fmt.Errorf("administrator %q: %w", a.Name, ErrRevoked)
	}
	g := b.grants[a.Parent]
	if b.revoked[g.Node()] != nil {
		return nil, fmt.Errorf("administrator %q: %w: its issuer was", a.Name, ErrRevoked)
	}
	if err := b.void(g); err != nil {
		return nil, fmt.Errorf("administrator %q: %w", a.Name, err)
	}
	return a, nil
}
