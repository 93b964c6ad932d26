// Package route decides where a call goes (calls.md §1 and §3 of the call
// model). It is pure: everything a decision may depend on is in the View and
// the Call; the same arguments give the same steps, so that a decision can be
// printed, tested and repeated.
//
// Its laws: Next never panics and never goes on for ever, whatever it is
// given; facts about other sites are the directory's, nobody is asked; a
// number shown can be dialled back.
//
// In use:
//
//	var past []route.Outcome
//	for {
//		step := route.Next(view, call, past)
//		if step.Kind == route.Reject { … }
//		past = append(past, route.Outcome{Step: step, Cause: carryOut(step)})
//	}
package route

import (
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A View is what a decision may depend on, as this node knows it now. Its
// methods must be fast, and consistent with each other during one call of Next.
type View interface {
	// Domain is the fleet's domain F, lower-case.
	Domain() string

	// Own is the site this node belongs to.
	Own() Site

	// SiteByCode and SiteByID find any site of the fleet.
	SiteByCode(code string) (Site, bool)
	SiteByID(id site.ID) (Site, bool)

	// CodeBegins says whether some site's code begins with prefix.
	CodeBegins(prefix string) bool

	// Local says whether host, an IP address without brackets or a name, is
	// this node's or that of the other node of its pair.
	Local(host string) bool

	// Lookup finds directory entries by number (<code><extension>), by alias
	// (E.164 with +) or by name (lower-case). More than one is a clash.
	Lookup(number string) []Entry

	// Settings returns what a user's record says, if this node holds it.
	Settings(user site.RecordID) (Settings, bool)

	// Bindings counts the phones registered for aor at this site.
	Bindings(aor site.AOR) int

	// Suspect says that a site was not reached lately: it is tried, shorter.
	Suspect(id site.ID) bool

	// Lines are this site's ways to the outside, in order of preference.
	Lines() []Line

	// Class is how far out user may call: what his record says, else what
	// holds for the site; "" is International.
	Class(user site.RecordID) Class

	// Returns says that a provider of this site delivers calls to that public
	// number here.
	Returns(number string) bool
}

// A Site is a place as a caller sees it.
type Site struct {
	ID     site.ID
	Code   string // "0017": prefix-free in the fleet
	Name   string
	ExtLen int           // digits of an extension; 0 means 3
	Nodes  []site.NodeID // whom to ask there, first the preferred one

	Access    string   // dialled before <code><extension> of another site; "" means "8"
	Outside   string   // dialled before an outside number, "" if none is needed
	Country   string   // country code without +, "33"
	National  string   // trunk prefix of national numbers, "0"
	Abroad    string   // international prefix, "00"
	Emergency []string // numbers never refused: "112"
	Codes     []Code   // feature codes
	Number    string   // E.164: reaches the site when nothing else does, "" if none

	RoundTrip time.Duration // last known round trip to it, 0 if unknown
}

func (s Site) extLen() int {
	if s.ExtLen <= 0 {
		return 3
	}
	return s.ExtLen
}

func (s Site) access() string {
	if s.Access == "" {
		return "8"
	}
	return s.Access
}

// A Code is a feature code: "*97". Rest says that digits may follow it.
type Code struct {
	Digits  string
	Feature site.FeatureName
	Rest    bool
}

// An EntryKind says what answers at a number: a user's phones, those of a
// group, or a menu.
type EntryKind uint8

const (
	User EntryKind = iota
	Group
	Menu
)

// An Entry is what the whole fleet knows of a user, a group or a menu.
type Entry struct {
	User        site.RecordID
	AOR         site.AOR
	Name        string
	Home        site.ID
	Serving     []site.ID // further sites where this user's phones may be
	E164        string    // "+33472001201", "" if none
	Written     uint64    // stamp of the number; of a clash the older one is meant
	Disabled    bool
	NoVoicemail bool
	Kind        EntryKind
}

// Party is the entry as one end of a call; Number is left to Shown.
func (e Entry) Party() site.Party {
	return site.Party{AOR: e.AOR, Display: e.Name, User: e.User, Site: e.Home}
}

// Settings are a user's wishes. Forwards hold what the user would dial, or
// "voicemail".
type Settings struct {
	Disabled                           bool
	DND                                bool
	Blocked                            []string // numbers of unwelcome callers
	All, OnBusy, OnNoAnswer, OnOffline string
	Ring                               time.Duration // 0 means DefaultRing
	NoVoicemail                        bool

	// Of a group. OnNoAnswer is where a call goes that nobody took.
	Members []Entry
	InTurn  bool // one after the other, not all together
}

// Times of calls.md §3.
const (
	DefaultRing   = 20 * time.Second
	MaxDiversions = 5
	PairAfter     = time.Second     // then the other node of the site is asked too
	Budget        = 3 * time.Second // without 100 Trying
	ShortBudget   = time.Second     // while the site is suspect
	maxBudget     = 6 * time.Second
)

// A Call is what is decided about.
type Call struct {
	From       site.Party // who calls, authenticated
	To         URI        // Request-URI
	Peer       bool       // from another node of the fleet
	Applied    bool       // the user's settings were applied by that node: only ring
	Diversions int        // made before the call came here
	Trunk      bool       // from a trunk
}

// Kind says what a Step asks for.
type Kind uint8

const (
	// Reject ends the call with Step.Cause.
	Reject Kind = iota
	// Ring rings the user's phones here and at Sites together, for For.
	Ring
	// Away hands the call to the user's own site, whose answer counts.
	Away
	// Feature gives the call to Step.Feature.
	Feature
	// Divert goes on with Step.To; nothing is rung.
	Divert
	// External and Emergency need one of Step.Trunks.
	External
	Emergency
)

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "unknown"
}

var kinds = [...]string{"reject", "ring", "away", "feature", "divert", "external", "emergency"}

// A Branch is another site that a step asks.
type Branch struct {
	Site   Site
	After  time.Duration // the second node is asked as well after this time without 100
	Budget time.Duration // without 100 by then, the site counts as unreachable
}

// A Step is the next thing to do with a call.
type Step struct {
	Kind     Kind
	Target   Entry         // Ring, Away, Feature: whom the call is for
	Members  []Entry       // Ring: of a group, those whose phones of this site ring in place of Target's
	Here     bool          // Ring: phones of this site ring
	For      time.Duration // Ring: how long
	Sites    []Branch      // Ring, Away
	Feature  site.FeatureName
	Arg      string // Feature: digits after its code
	Diverted string // Feature, Divert: why, in the words of features.Call
	To       URI    // Divert
	Number   string // External, Emergency: E.164 where it could be worked out
	Trunks   []string
	Public   bool       // External: in place of Target's own site, which cannot be reached
	Cause    site.Cause // Reject
	Why      string     // for people
}

// An Outcome is how a step ended without an answer.
type Outcome struct {
	Step  Step
	Cause site.Cause
}
