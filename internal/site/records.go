package site

import "time"

// What an administrator keeps for a site, beside users and boxes. A field's
// cell tag says how it lies in the replicated state (internal/state reads it);
// the others are for the REST interface and the command line.

// A Head is what all records begin with.
type Head struct {
	ID      RecordID `json:"id"`
	ETag    string   `json:"etag,omitempty" doc:"What was read; send it back as If-Match with an edit"`
	Name    string   `json:"name" cell:"1"`
	Deleted bool     `json:"deleted,omitempty" cell:"126,true"`
}

// Record returns the head of a record.
func (h *Head) Record() *Head { return h }

// A Trunk is a line to the outside: an account at a provider, or a gateway.
type Trunk struct {
	Head
	Kind       string   `json:"kind" cell:"2" enum:"register,peer" doc:"register: we register there; peer: a gateway on the LAN or a provider that knows our address"`
	Via        string   `json:"via" cell:"3" enum:"wan,lan" doc:"What it needs: lan works when the Internet is cut"`
	Server     string   `json:"server" cell:"4" doc:"host or host:port"`
	Transport  string   `json:"transport,omitempty" cell:"5" enum:"udp,tcp" doc:"Default udp"`
	Domain     string   `json:"domain,omitempty" cell:"6" doc:"Of the account; default the server"`
	User       string   `json:"user,omitempty" cell:"7" doc:"Account"`
	AuthUser   string   `json:"authUser,omitempty" cell:"8" doc:"If it differs from the account"`
	Password   string   `json:"password,omitempty" cell:"9,secret" doc:"Written, never read back"`
	Order      int      `json:"order,omitempty" cell:"10" doc:"The lowest is tried first"`
	Channels   int      `json:"channels,omitempty" cell:"11" doc:"Calls at once; 0: as many as there are"`
	Number     string   `json:"number,omitempty" cell:"12" doc:"Main number, E.164: shown for users without one of their own"`
	Disabled   bool     `json:"disabled,omitempty" cell:"13,true"`
	Profile    Profile  `json:"profile" cell:"14"`
	Accept     []string `json:"accept,omitempty" cell:"15" doc:"Further addresses or prefixes calls come from"`
	Only       []string `json:"only,omitempty" cell:"16" doc:"Numbers it may call, by how they begin, such as +33; empty: all. Emergency calls always go"`
	Bar        []string `json:"bar,omitempty" cell:"17" doc:"Numbers it may not call, by how they begin, such as +3389"`
	Minutes    int      `json:"minutes,omitempty" cell:"18" doc:"Of calls out in a day, counted by each node; then no further one begins; 0: no limit"`
	TestNumber string   `json:"testNumber,omitempty" cell:"19" doc:"What a test of the emergency call dials by this line; default the shop's"`
}

// A Profile is how a provider wants to be spoken to.
type Profile struct {
	Identity  string `json:"identity,omitempty" enum:"from,pai,ppi,rpid" doc:"Where the caller's number goes; default from"`
	Format    string `json:"format,omitempty" enum:"+e164,e164,national" doc:"Of numbers; default +e164"`
	Called    string `json:"called,omitempty" enum:"uri,to,p-called" doc:"Where the number that was called is; default uri"`
	KeepAlive string `json:"keepAlive,omitempty" enum:"none,crlf,options" doc:"Towards the provider; default crlf where a router translates addresses"`
	Contact   string `json:"contact,omitempty" enum:"own,public" doc:"Address we are reached at: our own (default), or the one the provider sees us at behind a router"`
	Realm     string `json:"realm,omitempty" doc:"Who alone may ask for the password; default anybody the server speaks for"`
	Every     int    `json:"every,omitempty" doc:"Seconds between keep-alives; default 25"`
	Expires   int    `json:"expires,omitempty" doc:"Seconds a registration is asked for; default 120"`
}

// An Inbound says where calls to one of the site's public numbers go.
type Inbound struct {
	Head        // Name is the number, E.164
	To   string `json:"to" cell:"2" doc:"What a phone of the site would dial"`
}

// A Group is a number that rings several users.
type Group struct {
	Head
	Number   string   `json:"number" cell:"2" doc:"Extension"`
	Strategy string   `json:"strategy,omitempty" cell:"3" enum:"all,turn" doc:"all ring together (default), or in turn"`
	Ring     int      `json:"ring,omitempty" cell:"4" doc:"Seconds, of all or of each in turn; default 20"`
	Overflow string   `json:"overflow,omitempty" cell:"5" doc:"Where a call goes that nobody took: a number, or voicemail (the group's own box); default voicemail"`
	E164     string   `json:"e164,omitempty" cell:"6" doc:"Public number, such as +33472001200: known in the whole fleet"`
	Members  []string `json:"members" cell:"32,set" doc:"Users' ids"`
}

// A Menu answers calls and lets the caller choose.
type Menu struct {
	Head
	Number  string   `json:"number" cell:"2" doc:"Extension"`
	Hours   string   `json:"hours,omitempty" cell:"3" doc:"Id of opening hours; without, always open"`
	Open    MenuPart `json:"open" cell:"4"`
	Closed  MenuPart `json:"closed" cell:"5" doc:"Outside opening hours; empty: the same"`
	Dial    bool     `json:"dial,omitempty" cell:"6" doc:"The caller may dial an extension"`
	Tries   int      `json:"tries,omitempty" cell:"7" doc:"Then the fallback; default 3"`
	Wait    int      `json:"wait,omitempty" cell:"8" doc:"Seconds for a key; default 5"`
	Default string   `json:"fallback,omitempty" cell:"9" doc:"Where a caller goes who chose nothing; default: hung up"`
}

// A MenuPart is what a menu says and offers at a time of day.
type MenuPart struct {
	Prompt  string            `json:"prompt,omitempty" doc:"Name of a built-in prompt"`
	Audio   string            `json:"audio,omitempty" doc:"Hash of a recording"`
	Keys    map[string]string `json:"keys,omitempty" doc:"0-9, * or #: what a phone of the site would dial, voicemail EXT, or repeat"`
	Forward string            `json:"forward,omitempty" doc:"No choice: the call goes there at once, after the prompt"`
}

// Hours are when a shop is open, and the switch that overrides them.
type Hours struct {
	Head
	Zone     string `json:"zone,omitempty" cell:"2" doc:"Time zone, such as Europe/Paris; default the shop's"`
	Text     string `json:"text" cell:"3" doc:"Such as: Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed"`
	Override string `json:"override,omitempty" cell:"4" enum:"auto,open,closed" doc:"The night switch; default auto"`
	Until    int64  `json:"until,omitempty" cell:"5" doc:"End of the override, Unix seconds; 0: until it is switched back"`
}

// A Phone is a device that fetches its settings from us.
type Phone struct {
	Head              // Name is what people call it: "till 1"
	MAC      string   `json:"mac" cell:"2"`
	Vendor   string   `json:"vendor" cell:"3" doc:"yealink, snom, snom-m, gigaset, ht8xx, akuvox"`
	Model    string   `json:"model,omitempty" cell:"4"`
	Lines    []string `json:"lines" cell:"5" doc:"Devices' ids, in order"`
	Keys     []Key    `json:"keys,omitempty" cell:"6"`
	Language string   `json:"language,omitempty" cell:"7"`
	Admin    string   `json:"admin,omitempty" cell:"8,secret" doc:"Password of the phone's own page"`
	Place    string   `json:"place,omitempty" cell:"9" doc:"Where it stands, for emergency calls"`
	Token    string   `json:"-" cell:"10,secret"`
}

// A Key is a programmable key.
type Key struct {
	Type  string `json:"type" doc:"line, blf, speed, park, night, voicemail"`
	Value string `json:"value,omitempty"`
	Label string `json:"label,omitempty"`
}

// A Shop is what holds for the whole site; there is one.
type Shop struct {
	Head                     // Name is the site's
	Zone       string        `json:"zone,omitempty" cell:"2" doc:"Time zone, such as Europe/Paris"`
	Address    string        `json:"address,omitempty" cell:"3" doc:"For emergency calls"`
	CallBack   string        `json:"callBack,omitempty" cell:"4" doc:"Number shown in emergency calls of phones without one, E.164"`
	Desk       string        `json:"desk,omitempty" cell:"5" doc:"Extension that is told of emergency calls"`
	Class      string        `json:"class,omitempty" cell:"9" enum:"internal,national,international" doc:"How far out users may call who have no class of their own; default international"`
	Waived     string        `json:"waived,omitempty" cell:"8" doc:"Who accepted that no emergency call is possible when the Internet is cut"`
	TestNumber string        `json:"testNumber,omitempty" cell:"10" doc:"What a test of the emergency call dials: a number the provider names for it, or one of yours outside; never an emergency number"`
	Tested     EmergencyTest `json:"tested,omitzero" cell:"11" doc:"How the newest test of the emergency call ended; written by the box"`
}

// An EmergencyTest is how the newest test of the emergency call ended.
type EmergencyTest struct {
	At     time.Time `json:"at"`
	By     string    `json:"by" doc:"Extension and name of the telephone it was made from"`
	Number string    `json:"number" doc:"That was dialled instead of an emergency number"`
	Trunk  string    `json:"trunk,omitempty" doc:"Over which it was answered; absent: it was not"`
	Result string    `json:"result"`
}
