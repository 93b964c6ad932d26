// Package api is the node's own REST interface, /api/v1: the one door for the
// command line, the web page and anybody's scripts. Its types are the contract;
// the OpenAPI 3.1 document is generated from them and served by the node.
//
// Law: every answer comes from this node's disk, at once, and says when the
// home of the data was last heard (asOf). A write never fails because another
// site is away. Errors are application/problem+json (RFC 9457) and end with a
// sentence that says what to do.
package api

import (
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Freshness says how old an answer can be. Silence is not staleness: without
// Trouble, nothing is known to be missing.
type Freshness struct {
	Home    string     `json:"home" doc:"Site whose data this is" example:"0001"`
	Here    bool       `json:"here" doc:"This node holds the data itself"`
	Heard   *time.Time `json:"heard,omitempty" doc:"When the home was last heard from"`
	Trouble *time.Time `json:"trouble,omitempty" doc:"The home could not be reached since then"`
}

// Status is what one node knows of itself and of the fleet.
// TrunkState is how a line to the outside is.
type TrunkState struct {
	Name   string `json:"name"`
	Via    string `json:"via" enum:"wan,lan"`
	Usable bool   `json:"usable"`
	State  string `json:"state" doc:"In words"`
	Calls  int    `json:"calls"`
}

// Emergency is an emergency call.
type Emergency struct {
	At     time.Time `json:"at"`
	Number string    `json:"number"`
	From   string    `json:"from"`
	Name   string    `json:"name"`
	Trunk  string    `json:"trunk,omitempty" doc:"Over which it went; absent: over none"`
	Over   bool      `json:"over"`
}

type Status struct {
	Version  string              `json:"version"`
	Fleet    FleetStatus         `json:"fleet"`
	Node     NodeStatus          `json:"node"`
	Pair     *PeerStatus         `json:"pair,omitempty"`
	Peers    []PeerStatus        `json:"peers"`
	Phones   int                 `json:"phones" doc:"Registered phones at this site"`
	Calls    int                 `json:"calls" doc:"Calls this node owns"`
	Users    int                 `json:"users" doc:"Users in the directory"`
	Merges   int                 `json:"merges" doc:"Open merges to look at"`
	Held     []HeldChange        `json:"held" doc:"Changes that wait for trust or time"`
	Waiting  int                 `json:"heldTotal" doc:"How many those are; the first 100 are listed"`
	Owed     Owed                `json:"owed"`
	Scopes   []ScopeStatus       `json:"scopes"`
	Keepers  []Keeper            `json:"keepers" doc:"Other sites that keep this site's state, so that it survives the site"`
	Keeps    []string            `json:"keeps" doc:"Codes of the sites whose state this node keeps"`
	Only     Only                `json:"onlyHere" doc:"What dies with this box if it dies now"`
	ReadOnly string              `json:"readOnly,omitempty" doc:"Why nothing can be written, and what to do"`
	Trunks   []TrunkState        `json:"trunks" doc:"Lines to the outside, as this node sees them"`
	Urgent   *Emergency          `json:"lastEmergency,omitempty"`
	Tested   *site.EmergencyTest `json:"emergencyTested,omitempty" doc:"Newest test of the emergency call; absent: never"`
	Warnings []string            `json:"warnings" doc:"What wants a look, each with what to do"`
}

// A Keeper is another site that keeps the state of this one.
type Keeper struct {
	Site  string `json:"site" doc:"Code"`
	State string `json:"state" enum:"takes,keeps,leaves" doc:"It is being sent all, has all, or is to be told that it need not keep it any more"`
}

type FleetStatus struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain string `json:"domain"`
	Sites  int    `json:"sites"`
	Nodes  int    `json:"nodes"`
}

type NodeStatus struct {
	ID             string    `json:"id"`
	Name           string    `json:"name" example:"a.s0001.shops.example"`
	Site           string    `json:"site" doc:"Site id"`
	SiteCode       string    `json:"siteCode"`
	SiteName       string    `json:"siteName"`
	Started        time.Time `json:"started"`
	SIP            []string  `json:"sip" doc:"Addresses phones register at"`
	Mesh           []string  `json:"mesh" doc:"Addresses other nodes dial"`
	API            []string  `json:"api" doc:"Where this interface answers"`
	Cert           string    `json:"certificate,omitempty" doc:"SHA-256 fingerprint of the HTTPS certificate"`
	DiskFree       int64     `json:"diskFree" doc:"Bytes"`
	Memory         int64     `json:"memory" doc:"Resident bytes"`
	RecordingsKbit int       `json:"recordingsRate,omitempty" doc:"kbit/s at most in which recordings are sent to a box of another site; absent: no limit"`
}

type PeerStatus struct {
	Node     string     `json:"node"`
	Name     string     `json:"name"`
	SiteCode string     `json:"siteCode"`
	State    string     `json:"state" enum:"linked,no trouble known,not reached,revoked" doc:"Evidence, not a probe"`
	Heard    *time.Time `json:"heard,omitempty" doc:"Last time anything came from it"`
	Since    *time.Time `json:"since,omitempty" doc:"Not reached since"`
	Error    string     `json:"error,omitempty"`
	Owed     int        `json:"owed" doc:"Changes it has not acknowledged"`
	Retry    *time.Time `json:"retry,omitempty" doc:"Next attempt"`
	In       int64      `json:"in" doc:"Bytes received"`
	Out      int64      `json:"out" doc:"Bytes sent"`
	Addrs    []string   `json:"addrs"`
}

// MaxHeldShown is how many held changes a status lists.
const MaxHeldShown = 100

type HeldChange struct {
	ID     string `json:"id"`
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

type Owed struct {
	Changes int `json:"changes" doc:"Not acknowledged by a neighbour"`
	Peers   int `json:"peers" doc:"Neighbours that are owed something"`
	Outbox  int `json:"outbox" doc:"Written here for other sites, not yet at one of their nodes"`
	Blobs   int `json:"blobs" doc:"Recordings on their way"`

	Sites []OwedSite `json:"sites,omitempty" doc:"Whom the outbox is for"`
}

// OwedSite is another site that changes of this box wait for.
type OwedSite struct {
	Site    string    `json:"site"`
	Changes int       `json:"changes"`
	Since   time.Time `json:"since" doc:"When the oldest was written"`
}

// Only says how much exists on this box alone (law 2: what only one box holds dies with it).
type Only struct {
	Changes int   `json:"changes"`
	Held    int   `json:"held" doc:"Changes that wait and that no other member is known to have"`
	Blobs   int   `json:"blobs"`
	Bytes   int64 `json:"bytes"`
}

type ScopeStatus struct {
	Scope       string `json:"scope" example:"site:0001"`
	Changes     int    `json:"changes"`
	Fingerprint string `json:"fingerprint" doc:"Equal on two nodes when they hold the same"`
	Complete    bool   `json:"complete" doc:"Caught up with at least one holder since the start, or no other holder is known"`
	Percent     int    `json:"percent" doc:"How far it has come, of what the other holders have; 100 when complete"`
}

// User is a person, or a place, that can be called.
type User struct {
	ID              site.RecordID `json:"id"`
	Number          string        `json:"number" doc:"Full number: site code and extension"`
	Extension       string        `json:"extension"`
	Name            string        `json:"name"`
	Site            string        `json:"site" doc:"Code of the home site"`
	E164            string        `json:"e164,omitempty"`
	Disabled        bool          `json:"disabled"`
	Deleted         bool          `json:"deleted,omitempty"`
	ForwardAll      string        `json:"forwardAll,omitempty"`
	ForwardBusy     string        `json:"forwardBusy,omitempty"`
	ForwardNoAnswer string        `json:"forwardNoAnswer,omitempty"`
	ForwardOffline  string        `json:"forwardOffline,omitempty"`
	DoNotDisturb    bool          `json:"doNotDisturb,omitempty"`
	Class           string        `json:"class,omitempty" doc:"How far out the user may call: internal, national or international; empty: as the shop's record says"`
	AlwaysPIN       bool          `json:"alwaysPin,omitempty" doc:"The mailbox asks for the PIN on the user's own phone too"`
	RingSeconds     int           `json:"ringSeconds,omitempty"`
	HasPIN          bool          `json:"hasPin"`
	Clash           []string      `json:"clash,omitempty" doc:"Other users with the same number; renumber one"`
	Devices         []Device      `json:"devices,omitempty"`
	Messages        *MessageCount `json:"messages,omitempty"`
	AsOf            Freshness     `json:"asOf"`
	ETag            string        `json:"etag,omitempty" doc:"What was seen: send it as If-Match with an edit"`
	Waiting         []string      `json:"waiting,omitempty" doc:"Changes made here that wait until a box of the home site can be reached; they count from then on"`
}

type MessageCount struct {
	New int `json:"new"`
	Old int `json:"old"`
}

type Device struct {
	ID       site.RecordID `json:"id"`
	SIPUser  string        `json:"sipUser" doc:"User name the phone authenticates with"`
	Realm    string        `json:"realm"`
	Password string        `json:"password,omitempty" doc:"Shown when it was just made"`
	Servers  []string      `json:"servers,omitempty" doc:"Both nodes of the site, for the phone's two server fields"`
}

// MaxUsers is how many users one answer lists at most.
const MaxUsers = 10_000

// UserSearch asks for a part of the directory.
type UserSearch struct {
	Text    string `query:"q" doc:"In a name or a number" maxLength:"120"`
	Home    string `query:"home" doc:"Code of a site, or here: its users only" maxLength:"16"`
	Deleted bool   `query:"deleted" doc:"Also those that were deleted and can be restored"`
	After   string `query:"after" doc:"Those that follow: what Ccnode-Next said" maxLength:"64"`
	Limit   int    `query:"limit" doc:"At most so many" minimum:"1" maximum:"10000" default:"10000"`

	own bool
}

// Own says that another box asks for an administrator: of this site only.
func (q UserSearch) Own() bool { return q.own }

// NewUser asks for a user.
type NewUser struct {
	Number   string `json:"number" doc:"Extension (this site's) or full number" minLength:"1" maxLength:"24"`
	Name     string `json:"name,omitempty" maxLength:"120"`
	Site     string `json:"site,omitempty" doc:"Code of the home site; default this one"`
	Password string `json:"password,omitempty" doc:"Default: a strong one is made and shown once" maxLength:"128"`
	PIN      string `json:"pin,omitempty" maxLength:"12" doc:"Voicemail PIN, 4 to 12 digits"`
	E164     string `json:"e164,omitempty" maxLength:"16"`
}

// UserPatch changes the fields that are present and leaves the others alone.
type UserPatch struct {
	Number          *string `json:"number,omitempty" maxLength:"24"`
	Name            *string `json:"name,omitempty" maxLength:"120"`
	E164            *string `json:"e164,omitempty" maxLength:"16"`
	Disabled        *bool   `json:"disabled,omitempty"`
	Deleted         *bool   `json:"deleted,omitempty" doc:"false restores a deleted user"`
	ForwardAll      *string `json:"forwardAll,omitempty" maxLength:"64"`
	ForwardBusy     *string `json:"forwardBusy,omitempty" maxLength:"64"`
	ForwardNoAnswer *string `json:"forwardNoAnswer,omitempty" maxLength:"64"`
	ForwardOffline  *string `json:"forwardOffline,omitempty" maxLength:"64"`
	DoNotDisturb    *bool   `json:"doNotDisturb,omitempty"`
	Class           *string `json:"class,omitempty" pattern:"^(|internal|national|international)$" doc:"How far out the user may call; empty: as the shop's record says"`
	AlwaysPIN       *bool   `json:"alwaysPin,omitempty" doc:"The mailbox asks for the PIN on the user's own phone too"`
	RingSeconds     *int    `json:"ringSeconds,omitempty" minimum:"5" maximum:"120"`
	PIN             *string `json:"pin,omitempty" maxLength:"12"`
	Password        *string `json:"password,omitempty" maxLength:"128" doc:"New device password; \"\" makes one"`
	SecurityReset   bool    `json:"securityReset,omitempty" doc:"The new secret alone counts, whatever others set meanwhile"`
}

// Invite admits one box, once.
type Invite struct {
	ID       site.RecordID `json:"id"`
	Token    string        `json:"token,omitempty" doc:"Shown when made; whoever holds it can join"`
	Site     string        `json:"site"`
	Role     string        `json:"role" enum:"node"`
	State    string        `json:"state" enum:"open,redeemed,revoked,expired"`
	Made     time.Time     `json:"made"`
	Expires  time.Time     `json:"expires"`
	Redeemed string        `json:"redeemedBy,omitempty"`
}

type NewInvite struct {
	Site            string `json:"site,omitempty" doc:"Code of an existing site, or of a new one; default: this site, for the second box of its pair" maxLength:"8"`
	SiteName        string `json:"siteName,omitempty" doc:"Name of a new site" maxLength:"80"`
	ExtensionDigits int    `json:"extensionDigits,omitempty" doc:"Of a new site; default 3" minimum:"2" maximum:"6"`
	Expires         string `json:"expires,omitempty" doc:"Go duration, default 24h" example:"72h" maxLength:"16"`
}

// Recovery is the fleet's root key as words, for paper.
type Recovery struct {
	Fleet string   `json:"fleet"`
	Words []string `json:"words"`
}

type RecoveryCheck struct {
	First string `json:"first" maxLength:"16"`
	Last  string `json:"last" maxLength:"16"`
}

// Pending is a box on this LAN that wants to join.
type Pending struct {
	Node  string    `json:"node"`
	Name  string    `json:"name"`
	Addr  string    `json:"addr"`
	Code  string    `json:"code" doc:"Six digits; the new box shows the same"`
	Since time.Time `json:"since"`
}

type Approval struct {
	Code            string `json:"code" pattern:"^[0-9]{6}$" doc:"As read off the new box"`
	Site            string `json:"site,omitempty" doc:"Code of the site it will serve; default this one" maxLength:"8"`
	SiteName        string `json:"siteName,omitempty" maxLength:"80"`
	ExtensionDigits int    `json:"extensionDigits,omitempty" doc:"Of a new site; default 3" minimum:"2" maximum:"6"`
}

// Location says where a user can be reached now.
type Location struct {
	User     User      `json:"user"`
	Contacts []Contact `json:"contacts" doc:"Phones registered at this site"`
	AsOf     Freshness `json:"asOf"`
}

type Contact struct {
	Contact   string    `json:"contact"`
	Source    string    `json:"source"`
	Transport string    `json:"transport"`
	Node      string    `json:"node" doc:"Node that holds the phone's flow"`
	Agent     string    `json:"agent,omitempty"`
	Expires   time.Time `json:"expires"`
}

// Message is one voicemail.
type Message struct {
	ID       site.RecordID `json:"id"`
	From     string        `json:"from"`
	FromName string        `json:"fromName,omitempty"`
	At       time.Time     `json:"at"`
	Seconds  float64       `json:"seconds"`
	Heard    bool          `json:"heard"`
	Folder   string        `json:"folder"`
	CutOff   bool          `json:"cutOff,omitempty"`
	LeftAt   string        `json:"leftAt,omitempty" doc:"Code of the site where it was recorded"`
	Audio    string        `json:"audio" enum:"here,arriving" doc:"Whether its audio is on this box"`
	Arrived  float64       `json:"arrived,omitempty" doc:"What part of its audio is here, of 1, while it arrives"`
	Blob     string        `json:"blob" doc:"SHA-256 of the stored audio"`
}

// Merge is one thing that two sides changed without seeing each other.
type Merge struct {
	ID      string      `json:"id"`
	Kind    string      `json:"kind" enum:"edit,delete,number,removed"`
	Record  string      `json:"record" doc:"What it is about, in words"`
	Field   string      `json:"field,omitempty"`
	InForce string      `json:"inForce"`
	Policy  string      `json:"policy,omitempty" enum:"latest,latest-reset,true,kept,each" doc:"Of the field: what decides what is in force"`
	Why     string      `json:"why,omitempty" doc:"Why that value is in force, in words"`
	Both    string      `json:"both,omitempty" doc:"What all sides say together, if that can be kept: keep \"both\""`
	Do      string      `json:"do,omitempty" doc:"How to settle it, where no side can be kept"`
	Sides   []MergeSide `json:"sides" doc:"Newest first"`

	Closed   bool       `json:"closed,omitempty"`
	ClosedBy *MergeSide `json:"closedBy,omitempty" doc:"Who settled it, and what was written"`
}

type MergeSide struct {
	Value   string    `json:"value" doc:"Secrets are never shown: only that they changed"`
	Was     *string   `json:"was,omitempty" doc:"What that side replaced; absent: this box does not know"`
	By      string    `json:"by" doc:"The person"`
	Node    string    `json:"node" doc:"The box it was written at"`
	Site    string    `json:"site" doc:"Code of that box's site"`
	At      time.Time `json:"at"`
	InForce bool      `json:"inForce"`
	Version string    `json:"version" doc:"Names this side when keeping it"`
	Change  string    `json:"change,omitempty" doc:"The change, for undo"`
}

type KeepMerge struct {
	Version string `json:"version" doc:"The side to keep, or: both" maxLength:"80"`
}

// Bytes counts what the mesh sent and received.
type Bytes struct {
	Since time.Time   `json:"since"`
	Until time.Time   `json:"until"`
	In    int64       `json:"in"`
	Out   int64       `json:"out"`
	Peers []PeerBytes `json:"peers"`
}

type PeerBytes struct {
	Name string `json:"name"`
	In   int64  `json:"in"`
	Out  int64  `json:"out"`
}

// RouteTest is the decision for one call, step by step, without making it.
type RouteTest struct {
	From  string   `json:"from"`
	To    string   `json:"to"`
	Steps []string `json:"steps"`
}

// Call is one call in progress.
type Call struct {
	Chain    string     `json:"chain"`
	From     string     `json:"from"`
	To       string     `json:"to"`
	Diverted string     `json:"diverted,omitempty" doc:"Why it took another way: busy, no answer, offline, unreachable, via public line"`
	State    string     `json:"state"`
	Since    time.Time  `json:"since"`
	Cause    string     `json:"cause,omitempty"`
	Answered *time.Time `json:"answered,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`

	Test bool `json:"test,omitempty" doc:"Of the emergency call: it was none"`

	TransferredBy []string `json:"transferredBy,omitempty" doc:"Who transferred the call, in order"`

	Also []string `json:"also,omitempty" doc:"Who else talked in it, until it was transferred"`

	BothHeard *bool `json:"bothHeard,omitempty"`
}

// NodeSecrets is what a box could open, so that it can be replaced when the box
// is lost. No secret is in it.
type NodeSecrets struct {
	Node    string        `json:"node" doc:"Id of the box"`
	Name    string        `json:"name"`
	Revoked bool          `json:"revoked"`
	Sites   []SiteSecrets `json:"sites" doc:"Of the sites whose state is held where this was asked"`
	Unknown []string      `json:"unknown" doc:"Codes of sites whose state is not held where this was asked: ask there"`
}

// SiteSecrets is what a box could open of one site.
type SiteSecrets struct {
	Site    string       `json:"site" doc:"Code"`
	Current bool         `json:"current" doc:"What is sealed from now on can be opened too, until the site's key is replaced"`
	Keys    []string     `json:"keys" doc:"Names of the site's keys that were wrapped for it"`
	Secrets []HeldSecret `json:"secrets"`
	Made    []string     `json:"made" doc:"Secrets that are made of the site's key and lie nowhere"`
}

// NodeRights are given to a box for good, or until it is revoked.
type NodeRights struct {
	Admit bool `json:"admit,omitempty" doc:"It may admit boxes to any site, and revoke any"`
	Relay bool `json:"relay,omitempty" doc:"It carries for boxes that cannot be dialled"`
}

// RecoverySheet is what was written down when the fleet was founded.
type RecoverySheet struct {
	Words []string `json:"words" minItems:"1" maxItems:"48" doc:"24 of them"`
}

// SecretRotation says whose knowledge is to be made worthless.
type SecretRotation struct {
	HeldBy string `json:"heldBy" minLength:"1" maxLength:"80" doc:"Id of a box that was revoked"`
}

// RotatedSecrets is what became of the secrets that a lost box could open.
type RotatedSecrets struct {
	Node     string          `json:"node" doc:"Id of the box"`
	Name     string          `json:"name"`
	Site     string          `json:"site" doc:"Code of the site whose secrets were replaced: the own one"`
	Replaced []RotatedSecret `json:"replaced"`
	Left     []RotatedSecret `json:"left" doc:"Those that a person has to replace"`
	Phones   []Resynced      `json:"phones" doc:"Who was asked to fetch its new settings now"`
	Until    *time.Time      `json:"until,omitempty" doc:"Until when telephones that are off now can still come for their new settings by themselves"`
	Others   []string        `json:"others" doc:"Codes of other sites of which it could open something: to be done there, too"`
	Unknown  []string        `json:"unknown" doc:"Codes of sites whose state is not held where this was asked: ask there"`
}

// RotatedSecret is one of them.
type RotatedSecret struct {
	HeldSecret
	New   string `json:"new,omitempty" doc:"What it is now, where a person has to pass it on"`
	Phone string `json:"phone,omitempty" doc:"The telephone that fetches it by itself"`
	Why   string `json:"why,omitempty" doc:"Why a person has to replace it"`
}

// HeldSecret names one sealed value.
type HeldSecret struct {
	Kind   string `json:"kind" doc:"device, user, trunk, phone"`
	What   string `json:"what" doc:"password, PIN, admin"`
	Name   string `json:"name,omitempty"`
	Number string `json:"number,omitempty" doc:"Of the user it belongs to"`
	ID     string `json:"id" doc:"Of the record"`
	Key    string `json:"key" doc:"Name of the key it is sealed under"`
}
