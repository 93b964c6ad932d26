package state

import (
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/trust"
)

// Tables. Their hundreds say who may write them (internal/trust, tables.go).
const (
	// fleet scope
	TableFleet     = trust.FleetSettings     // record: first 16 bytes of the fleet id
	TablePlacement = trust.FleetSettings + 1 // record: hash of the feature's name
	TableSite      = trust.TableSite         // record: site id
	TableDirectory = trust.FleetSites + 1    // record: trust.SiteRecord(home, user)
	TableNode      = trust.FleetNodes        // record: node id

	// SiteTables is the least table of a site scope.
	SiteTables = trust.SiteOwn

	// site scope
	TableUser     = trust.SiteOwn     // record: user
	TableDevice   = trust.SiteOwn + 1 // record: device
	TableInvite   = trust.SiteOwn + 2 // record: invite
	TableRedeemed = trust.SiteOwn + 3 // record: invite; finals only
	TableRevoked  = trust.SiteOwn + 4 // record: invite; finals only
	TableKey      = trust.SiteOwn + 5 // record: epoch
	TableWrap     = trust.SiteOwn + 6 // record: epoch; field: node
	TablePerson   = trust.SiteOwn + 7 // record: by
	TableMessage  = trust.SiteDrops   // record: message
	// TablePurge holds the notice of a purge: its stamp counts. After
	// trust.TableKeeper, so that no administrator's session may write it.
	TablePurge = trust.TableKeeper + 1 // record: the site
)

// Fields. Numbers are never reused.
const (
	fleetName   = "\x01"
	fleetDomain = "\x02"

	placeName = "\x01"
	placeKind = "\x02"
	placeURI  = "\x03"

	siteCode      = "\x01"
	siteName      = "\x02"
	siteExtLen    = "\x03"
	siteAccess    = "\x04"
	siteOutside   = "\x05"
	siteCountry   = "\x06"
	siteNational  = "\x07"
	siteAbroad    = "\x08"
	siteEmergency = "\x09"
	siteNumber    = "\x0a"
	siteAlsoAt    = "\x0b"
	siteVisitors  = "\x0c"
	siteThin      = "\x0d"

	dirEntry = "\x01"

	nodeName = "\x01"
	nodeMesh = "\x02"
	nodeSIP  = "\x03"
	nodeAPI  = "\x04"

	userNumber    = "\x01"
	userName      = "\x02"
	userE164      = "\x03"
	userLanguage  = "\x04"
	userDisabled  = "\x05"
	userDeleted   = "\x06"
	userAll       = "\x07"
	userBusy      = "\x08"
	userNoAnswer  = "\x09"
	userOffline   = "\x0a"
	userDND       = "\x0b"
	userRing      = "\x0c"
	userNoMail    = "\x0d"
	userPIN       = "\x0e"
	userCaller    = "\x0f"
	userAlwaysPIN = "\x10"
	userClass     = "\x11"
	userGreeting  = "\x20" // + the reason

	devUser    = "\x01"
	devSecret  = "\x02"
	devSHA256  = "\x03"
	devDeleted = "\x04"
	devName    = "\x05"

	inviteClaim = "\x01"
	inviteInfo  = "\x02"

	keyMade   = "\x01"
	keyPhones = "\x02" // telephones trust what is made of this key, since then

	personName = "\x01"

	purgeNotice = "\x01"

	msgEntry  = trust.DropField
	msgHeard  = "\x02"
	msgFolder = "\x03"
)

// A Policy says how a field is read when it has several versions (state.md §4).
type Policy uint8

const (
	Latest      Policy = iota // greatest (stamp, id); the others are listed
	LatestReset               // the same; a security reset alone counts
	True                      // true if any version is
	Kept                      // anything but trash
	Each                      // all count until one is chosen
	Derived                   // computed from other records: latest, never listed
)

type field struct {
	name   string
	policy Policy
	secret bool // sealed: only "changed" is ever shown
	set    bool // texts, each in a cell whose name begins with the field's
}

type table struct {
	name   string
	fields map[string]field
}

// schema is the one place that says what a field is and who wins.
var schema = map[uint16]table{
	TableFleet:     {"fleet", map[string]field{fleetName: {name: "name"}, fleetDomain: {name: "domain"}}},
	TablePlacement: {"feature", map[string]field{placeName: {name: "name"}, placeKind: {name: "placed"}, placeURI: {name: "address"}}},
	TableSite: {"site", map[string]field{siteCode: {name: "code"}, siteName: {name: "name"}, siteExtLen: {name: "extension length"},
		siteAccess: {name: "inter-site digit"}, siteOutside: {name: "outside digit"}, siteCountry: {name: "country code"},
		siteNational: {name: "national prefix"}, siteAbroad: {name: "international prefix"}, siteEmergency: {name: "emergency numbers"}, siteNumber: {name: "public number"}, siteAlsoAt: {name: "also kept at"}, siteVisitors: {name: "visitors known for"}, siteThin: {name: "thin line"}}},
	TableDirectory: {"directory", map[string]field{dirEntry: {name: "entry", policy: Derived}}},
	TableService:   {"directory", map[string]field{dirEntry: {name: "entry", policy: Derived}}},
	TableRoam:      {"roaming", map[string]field{roamAt: {name: "visited site", policy: Derived}}},
	TableNode: {"node", map[string]field{nodeName: {name: "name"}, nodeMesh: {name: "addresses", policy: Derived},
		nodeSIP: {name: "SIP addresses", policy: Derived}, nodeAPI: {name: "API addresses", policy: Derived}}},
	TableUser: {"user", map[string]field{userNumber: {name: "number"}, userName: {name: "name"}, userE164: {name: "E.164 number"},
		userLanguage: {name: "language"}, userDisabled: {name: "disabled", policy: True}, userDeleted: {name: "deleted", policy: True},
		userAll: {name: "forward all"}, userBusy: {name: "forward busy"}, userNoAnswer: {name: "forward no answer"},
		userOffline: {name: "forward offline"}, userDND: {name: "do not disturb"}, userRing: {name: "ring time"},
		userNoMail: {name: "no voicemail"}, userPIN: {name: "PIN", policy: LatestReset, secret: true},
		userCaller: {name: "caller name"}, userAlwaysPIN: {name: "always ask the PIN"}, userClass: {name: "class of service"}, userGreeting: {name: "greeting"}}},
	TableDevice: {"device", map[string]field{devUser: {name: "user"}, devSecret: {name: "password", policy: Each, secret: true},
		devSHA256: {name: "SHA-256"}, devDeleted: {name: "deleted", policy: True}, devName: {name: "name"}}},
	TableInvite:       {"invite", map[string]field{inviteClaim: {name: "claim"}, inviteInfo: {name: "made"}}},
	TableRedeemed:     {"redeemed invite", nil},
	TableRevoked:      {"revoked invite", nil},
	TableKey:          {"site key", map[string]field{keyMade: {name: "made", policy: Derived}, keyPhones: {name: "of the telephones", policy: Derived}}},
	TableWrap:         {"wrapped key", nil},
	trust.TableKeeper: {"keeper", map[string]field{trust.KeeperField: {name: "keeper", policy: Derived}}},
	TablePurge:        {"purge", map[string]field{purgeNotice: {name: "notice", policy: Derived}}},
	TablePerson:       {"person", map[string]field{personName: {name: "name", policy: Derived}}},
	TableMessage: {"message", map[string]field{msgEntry: {name: "entry"}, msgHeard: {name: "heard", policy: True},
		msgFolder: {name: "folder", policy: Kept}}},
}

// fieldOf describes a cell; unknown ones, of a newer version, are derived from
// nothing we know and are left alone.
func fieldOf(c crdt.Cell) (table, field) {
	t, ok := schema[c.Table]
	if !ok {
		return table{name: "unknown"}, field{name: "unknown", policy: Derived}
	}
	if f, ok := t.fields[c.Field]; ok {
		return t, f
	}
	if c.Table == TableUser && strings.HasPrefix(c.Field, userGreeting) {
		f := t.fields[userGreeting]
		f.name += " " + c.Field[1:]
		return t, f
	}
	for prefix, f := range t.fields { // members of a set
		if f.set && strings.HasPrefix(c.Field, prefix) {
			return t, f
		}
	}
	return t, field{name: "unknown", policy: Derived}
}
