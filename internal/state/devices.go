package state

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A Device is what authenticates: a phone.
type Device struct {
	ID       site.RecordID
	User     site.RecordID
	Name     string
	SIPUser  string // digest user name: its id; hand-typed phones may use the number
	Realm    string
	Password string // only when it was just made or asked for
	SHA256   bool   // challenge it with SHA-256
}

// device is a Device as calls need it; what it points at never changes.
type device struct {
	id, user site.RecordID
	name     string
	sha256   bool
	deleted  bool
	secrets  []sealed // newest first
}

type sealed struct {
	at    crdt.Stamp
	value []byte
}

// A secret is what is sealed of a device: the password, or, where it is not
// known, the two digests of one user name (RFC 7616 §3.4.2).
type secret struct {
	Password string `cbor:"1,keyasint,omitempty"`
	User     string `cbor:"2,keyasint,omitempty"`
	Realm    string `cbor:"3,keyasint,omitempty"`
	MD5      string `cbor:"4,keyasint,omitempty"`
	SHA256   string `cbor:"5,keyasint,omitempty"`
}

// eachFor is how long several passwords of one device count side by side.
const eachFor = 7 * 24 * time.Hour

func (s *State) indexDevice(r reader, id site.RecordID) {
	if old := s.ix.devices[id]; old != nil {
		delete(s.ix.devices, id)
		s.ix.phones[old.user] = slices.DeleteFunc(slices.Clone(s.ix.phones[old.user]), func(d site.RecordID) bool { return d == id })
		if len(s.ix.phones[old.user]) == 0 {
			delete(s.ix.phones, old.user)
		}
	}
	user := r.bytes(devUser)
	if r.final() || len(user) != len(site.RecordID{}) {
		return
	}
	d := &device{id: id, user: site.RecordID(user), name: r.text(devName), sha256: r.truth(devSHA256), deleted: r.anyTrue(devDeleted)}
	for _, v := range crdt.Each(r.versions(devSecret)) {
		d.secrets = append(d.secrets, sealed{v.Stamp, v.Value})
	}
	s.ix.devices[id] = d
	list := append(slices.Clone(s.ix.phones[d.user]), id)
	slices.SortFunc(list, func(a, b site.RecordID) int { return strings.Compare(string(a[:]), string(b[:])) })
	s.ix.phones[d.user] = list
}

func secretCell(scope crdt.Scope, id site.RecordID) crdt.Cell {
	return crdt.Cell{Scope: scope, Table: TableDevice, Record: string(id[:]), Field: devSecret}
}

// A Credential is one secret of one device, for one user name.
type Credential struct {
	Device    site.RecordID
	User      site.RecordID
	HA1MD5    string
	HA1SHA256 string
	SHA256    bool
	AOR       site.AOR // its line
	Name      string
	Disabled  bool // the user was disabled: refused after a right password
}

// Credentials finds what may authenticate as username in realm: a device by its
// id, or all devices of all own users with that number (or extension). A clash
// gives several: the one whose password fits is meant. A device whose password
// was changed on two sides has one for each.
//
// The realm is that of the site in the number's digits, which is another site's
// when our user was given a number of that site.
func (s *State) Credentials(username, realm string) (out []Credential) {
	s.mu.RLock()
	own := s.ix.sites[s.cfg.Site]
	domain := s.ix.domain
	if own == nil {
		s.mu.RUnlock()
		return nil
	}
	ours := strings.EqualFold(realm, own.Domain(domain))
	var found []*device
	var users []*User
	take := func(d *device) {
		if u := s.ix.users[d.user]; u != nil && !d.deleted && !u.Deleted && (ours || strings.EqualFold(realm, s.realmOf(u))) {
			found, users = append(found, d), append(users, u)
		}
	}
	if id, err := site.ParseRecordID(username); err == nil {
		if d := s.ix.devices[id]; d != nil {
			take(d)
		}
	} else if digits(username) {
		number := username
		if ours && len(number) == own.ExtLen {
			number = own.Code + number
		}
		for _, e := range s.ix.of(number) {
			if e.Home == s.cfg.Site {
				for _, id := range s.ix.phones[e.User] {
					take(s.ix.devices[id])
				}
			}
		}
	}
	s.mu.RUnlock()

	now := s.cfg.Now()
	for i, d := range found {
		u := users[i]
		for k, x := range d.secrets {
			if k > 0 && now.Sub(time.UnixMilli(d.secrets[0].at.Millis())) > eachFor {
				break
			}
			c := Credential{Device: d.id, User: u.ID, SHA256: d.sha256, AOR: site.AOR{User: u.Number, Domain: domain}, Name: u.shown(), Disabled: u.Disabled}
			b, err := s.keys.Open(trust.Where(secretCell(s.scope, d.id)), x.value)
			var sec secret
			if err != nil || !unmarshal(b, &sec) {
				s.cfg.Log.Warn("A device's secret cannot be opened here", "device", d.id, "err", err)
				continue
			}
			switch {
			case sec.Password != "":
				c.HA1MD5, c.HA1SHA256 = ha1(username, realm, sec.Password)
			case sec.User == username && strings.EqualFold(sec.Realm, realm):
				c.HA1MD5, c.HA1SHA256 = sec.MD5, sec.SHA256
			default:
				continue
			}
			out = append(out, c)
		}
	}
	return out
}

// realmOf is the realm a user's devices are asked in: that of the site in the
// number's digits, else ours. s.mu is held.
func (s *State) realmOf(u *User) string {
	x := s.ix.sites[s.cfg.Site]
	for code, other := range s.ix.codes { // prefix-free
		if strings.HasPrefix(u.Number, code) && len(u.Number) == len(code)+other.ExtLen {
			x = other
		}
	}
	if x == nil {
		return ""
	}
	return x.Domain(s.ix.domain)
}

// ha1 are the digests of RFC 7616 §3.4.2, in hex.
func ha1(user, realm, password string) (md, sha string) {
	a1 := []byte(user + ":" + realm + ":" + password)
	m, h := md5.Sum(a1), sha256.Sum256(a1)
	return hex.EncodeToString(m[:]), hex.EncodeToString(h[:])
}

// Device returns a device that is in use, with its user; for provisioning.
func (s *State) Device(id site.RecordID) (Device, User, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := s.ix.devices[id]
	if d == nil || d.deleted {
		return Device{}, User{}, fmt.Errorf("device %s: %w", id, ErrNotFound)
	}
	u := s.ix.users[d.user]
	if u == nil || u.Deleted {
		return Device{}, User{}, fmt.Errorf("user of device %s: %w", id, ErrNotFound)
	}
	return s.deviceOf(d), s.dress(*u), nil
}

// sealSecret seals a password for a device.
func (s *State) sealSecret(id site.RecordID, sec secret) ([]byte, error) {
	b, err := s.keys.Seal(trust.Where(secretCell(s.scope, id)), marshal(sec), lockedRandom{s})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return b, nil
}

// Password opens a device's password in force, for provisioning or to be shown
// on demand. Devices whose password is not known here give ErrNotFound.
func (s *State) Password(id site.RecordID) (string, error) {
	s.mu.RLock()
	d := s.ix.devices[id]
	s.mu.RUnlock()
	if d == nil || len(d.secrets) == 0 {
		return "", fmt.Errorf("device %s: %w", id, ErrNotFound)
	}
	b, err := s.keys.Open(trust.Where(secretCell(s.scope, id)), d.secrets[0].value)
	if err != nil {
		return "", fmt.Errorf("device %s: %w", id, err)
	}
	var sec secret
	if !unmarshal(b, &sec) || sec.Password == "" {
		return "", fmt.Errorf("password of device %s: %w", id, ErrNotFound)
	}
	return sec.Password, nil
}

var typed = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newPassword makes one of 128 bits, 26 characters that can be typed.
func (s *State) newPassword() (string, error) {
	var b [16]byte
	if err := s.draw(b[:]); err != nil {
		return "", err
	}
	return typed.EncodeToString(b[:]), nil
}

func checkPassword(p string) error {
	if len(p) < 8 || len(p) > 128 {
		return fmt.Errorf("password: %w: %d characters; 8 to 128, or leave it out and one is made", ErrInvalid, len(p))
	}
	for i := range len(p) {
		if p[i] < ' ' || p[i] == 0x7f {
			return fmt.Errorf("password: %w: it has a control character", ErrInvalid)
		}
	}
	return nil
}
