// Package site holds the nouns of the fleet. It imports nothing of ours and
// does nothing; every other room speaks in its words.
package site

import (
	"encoding/base32"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// RecordID names one record for all time: 10 random bytes, never a number or a
// name, so that two islands can create the "same" user without one of them
// losing. Its text form is 16 lower-case base32 characters.
type RecordID [10]byte

// ID names a site: a place with one node, or with a pair that shares its
// phones. It is the RecordID of the site's record.
type ID RecordID

// NodeID names one replica for all time: the first 16 bytes of SHA-256 of its
// Ed25519 public key, made at first boot. A re-flashed appliance is a new node.
type NodeID [16]byte

// BlobRef is the SHA-256 of a blob's (sealed) bytes.
type BlobRef [32]byte

var text = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func parse(dst []byte, what, s string) error {
	b, err := text.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(dst) || text.EncodeToString(b) != strings.ToLower(s) {
		return fmt.Errorf("%q is not a %s: want %d characters a-z2-7", s, what, text.EncodedLen(len(dst)))
	}
	copy(dst, b)
	return nil
}

func (r RecordID) String() string               { return text.EncodeToString(r[:]) }
func (r RecordID) IsZero() bool                 { return r == RecordID{} }
func (r RecordID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
func (r *RecordID) UnmarshalText(b []byte) error {
	return parse(r[:], "record id", string(b))
}

func (i ID) String() string                { return text.EncodeToString(i[:]) }
func (i ID) IsZero() bool                  { return i == ID{} }
func (i ID) MarshalText() ([]byte, error)  { return []byte(i.String()), nil }
func (i *ID) UnmarshalText(b []byte) error { return parse(i[:], "site id", string(b)) }

func (n NodeID) String() string                { return text.EncodeToString(n[:]) }
func (n NodeID) IsZero() bool                  { return n == NodeID{} }
func (n NodeID) MarshalText() ([]byte, error)  { return []byte(n.String()), nil }
func (n *NodeID) UnmarshalText(b []byte) error { return parse(n[:], "node id", string(b)) }

func (b BlobRef) String() string                { return text.EncodeToString(b[:]) }
func (b BlobRef) IsZero() bool                  { return b == BlobRef{} }
func (b BlobRef) MarshalText() ([]byte, error)  { return []byte(b.String()), nil }
func (b *BlobRef) UnmarshalText(t []byte) error { return parse(b[:], "blob reference", string(t)) }

// ParseRecordID reads the text form of a RecordID.
func ParseRecordID(s string) (RecordID, error) {
	var r RecordID
	err := r.UnmarshalText([]byte(s))
	return r, err
}

// An AOR is a SIP address-of-record (RFC 3261 §6), the name people dial. For a
// user, User is <site code><extension> and Domain the fleet's domain.
type AOR struct{ User, Domain string }

func (a AOR) String() string { return "sip:" + a.User + "@" + a.Domain }

// A Party is one end of a call as people see it.
type Party struct {
	AOR     AOR
	Display string   // name shown, "" if unknown
	Number  string   // what the other side can dial back, see route.Shown
	User    RecordID // zero for outsiders
	Device  RecordID // zero unless the party is one of our phones
	Site    ID       // home site, zero for outsiders
}

// Transport is how a flow reaches a phone or a peer.
type Transport string

const (
	UDP  Transport = "udp"
	TCP  Transport = "tcp"
	TLS  Transport = "tls"
	WSS  Transport = "wss"
	Mesh Transport = "mesh" // a stream over the authenticated link between nodes
)

// Reliable says whether the transport delivers in order and by itself
// (RFC 3261 §17: no retransmission).
func (t Transport) Reliable() bool { return t != UDP }

// A Binding ties an AOR to the contact of one phone (RFC 3261 §10). It is
// shared by the nodes of one site and goes no further; what the fleet knows is
// the user's home site.
type Binding struct {
	AOR       AOR
	User      RecordID       // the line
	Device    RecordID       // what authenticated
	Contact   string         // URI as the phone gave it
	Instance  string         // +sip.instance (RFC 5626), "" if absent
	RegID     int            // reg-id (RFC 5626), 0 if absent
	Node      NodeID         // flow owner: the registrar it spoke to
	Transport Transport      // of that flow
	Flow      string         // name of that connection at Node; "" for UDP
	Source    netip.AddrPort // where the REGISTER came from (RFC 3581)
	NAT       bool           // Source differs from the contact's own address
	CallID    string         // with CSeq, orders updates (RFC 3261 §10.3)
	CSeq      uint32
	UserAgent string
	Q         int // preference in thousandths (RFC 3261 §20.10), default 1000
	Expires   time.Time
	Updated   time.Time
}

// Key is what a new registration of the same phone replaces: AOR and instance
// (with reg-id) when the phone has one, AOR and contact otherwise.
func (b Binding) Key() string {
	if b.Instance != "" {
		return b.AOR.String() + "\x00i" + b.Instance + "\x00" + strconv.Itoa(b.RegID)
	}
	return b.AOR.String() + "\x00c" + b.Contact
}

// A Message is one voicemail. Its audio may arrive later than its entry.
type Message struct {
	ID       RecordID
	Mailbox  RecordID // the user or group it was left for
	Site     ID       // home site of the mailbox
	From     string   // number that can be dialled back
	FromName string
	At       time.Time
	Duration time.Duration
	Audio    BlobRef
	Size     int64
	CutOff   bool // the node died or the line broke while it was recorded
	Heard    bool
	Folder   Folder
	LeftAt   ID // site where it was recorded
}

// Folder is where a message lies in its mailbox.
type Folder string

const (
	Inbox Folder = "inbox"
	Saved Folder = "saved"
	Trash Folder = "trash"
)

// Summary is what a lamp shows (RFC 3842): messages not yet heard, and heard.
type Summary struct{ New, Old int }

// FeatureName names a feature ("voicemail", "mailbox"); a Placement says who serves it.
type FeatureName string

// A Placement says who serves a feature. The zero value is a feature that
// nobody serves, which is an ordinary state and not an error in the table.
type Placement struct {
	Kind PlacementKind
	URI  string // SIP only
}

// PlacementKind is how a feature is reached.
type PlacementKind uint8

const (
	Unassigned PlacementKind = iota
	InProcess
	SIP
)
