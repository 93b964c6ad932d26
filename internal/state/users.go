package state

import (
	"fmt"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A User is a person, or a place, that can be called. Of users of other sites
// only what the directory says is known: Here is false.
type User struct {
	ID          site.RecordID
	Number      string // full: <code><extension>
	Extension   string // "" if the number is not of its home's block
	Name        string
	CallerName  string // shown to those it calls, "" = Name
	Site        site.ID
	E164        string
	Language    string
	Disabled    bool
	Deleted     bool
	DeletedAt   time.Time
	ForwardAll  string // what the user would dial, or "voicemail"; "" = none
	OnBusy      string
	OnNoAnswer  string
	OnOffline   string
	DND         bool
	Ring        time.Duration // 0: the default
	NoVoicemail bool
	HasPIN      bool
	Class       string // internal, national, international; "" = the site's
	AlwaysPIN   bool   // ask it even on the user's own phone

	Here    bool
	Clash   []site.RecordID // others with the same number
	Devices []Device
	ETag    string // what was seen; only from User and after writes

	greetings map[string]site.BlobRef // by reason
}

func (u *User) shown() string {
	if u.CallerName != "" {
		return u.CallerName
	}
	return u.Name
}

func (s *State) indexUser(r reader, id site.RecordID) {
	delete(s.ix.users, id)
	number, ok := r.latest(userNumber)
	if !ok || r.final() {
		return
	}
	u := &User{ID: id, Number: string(number.Value), Name: r.text(userName), CallerName: r.text(userCaller), Site: s.cfg.Site,
		E164: r.text(userE164), Language: r.text(userLanguage), Disabled: r.anyTrue(userDisabled), Deleted: r.anyTrue(userDeleted),
		ForwardAll: r.text(userAll), OnBusy: r.text(userBusy), OnNoAnswer: r.text(userNoAnswer), OnOffline: r.text(userOffline),
		DND: r.truth(userDND), Ring: time.Duration(r.number(userRing)) * time.Second, NoVoicemail: r.truth(userNoMail),
		AlwaysPIN: r.truth(userAlwaysPIN), Class: r.text(userClass), Here: true}
	pin, _, _ := crdt.LatestReset(r.versions(userPIN))
	u.HasPIN = len(pin.Value) > 0
	if u.Deleted {
		for _, v := range r.versions(userDeleted) {
			if at := time.UnixMilli(v.Stamp.Millis()); isTrue(v.Value) && at.After(u.DeletedAt) {
				u.DeletedAt = at
			}
		}
	}
	for _, f := range r.set.Fields(r.table, r.rec) {
		if b := r.bytes(f); strings.HasPrefix(f, userGreeting) && len(b) == len(site.BlobRef{}) {
			if u.greetings == nil {
				u.greetings = map[string]site.BlobRef{}
			}
			u.greetings[f[len(userGreeting):]] = site.BlobRef(b)
		}
	}
	s.ix.users[id] = u
}

// Settings returns a user's record for a call, if it is of this site and not
// deleted. What it points at must not be altered.
func (s *State) Settings(id site.RecordID) (*User, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	u := s.ix.users[id]
	return u, u != nil && !u.Deleted
}

// dress adds what is not of the record itself. s.mu is held.
func (s *State) dress(u User) User {
	if x := s.ix.sites[u.Site]; x != nil {
		if ext, ok := strings.CutPrefix(u.Number, x.Code); ok && len(ext) == x.ExtLen {
			u.Extension = ext
		}
	}
	if !u.Deleted {
		for _, e := range s.ix.of(u.Number) {
			if e.User != u.ID {
				u.Clash = append(u.Clash, e.User)
			}
		}
	}
	for _, id := range s.ix.phones[u.ID] {
		if d := s.ix.devices[id]; !d.deleted {
			u.Devices = append(u.Devices, s.deviceOf(d))
		}
	}
	return u
}

func (s *State) deviceOf(d *device) Device {
	out := Device{ID: d.id, User: d.user, Name: d.name, SIPUser: d.id.String(), SHA256: d.sha256}
	if u := s.ix.users[d.user]; u != nil {
		out.Realm = s.realmOf(u)
	}
	return out
}

// Users lists the whole directory, by number; deleted own ones if asked for.
func (s *State) Users(deleted bool) []User {
	out, _ := s.Search(Search{Deleted: deleted})
	return out
}

func (e *Entry) user() User {
	return User{ID: e.User, Number: e.Number, Name: e.Name, Site: e.Home, E164: e.E164, Disabled: e.Disabled, NoVoicemail: e.NoVoicemail}
}

// User returns one user with its ETag.
func (s *State) User(id site.RecordID) (User, error) {
	s.mu.RLock()
	u := s.ix.users[id]
	var out User
	switch e := s.ix.listing.users[id]; {
	case u != nil:
		out = s.dress(*u)
	case e != nil:
		out = s.dress(e.user())
	default:
		s.mu.RUnlock()
		return User{}, fmt.Errorf("user %s: %w", id, ErrNotFound)
	}
	var devices []site.RecordID
	for _, d := range out.Devices {
		devices = append(devices, d.ID)
	}
	s.mu.RUnlock()
	if out.Here {
		s.cfg.Engine.View(func(v View) { out.ETag = s.etag(v, id, devices) })
	}
	return out, nil
}

// Find turns what a person typed into a user: a record id, an extension of this
// site, a full number, an E.164 number, or a name that only one user has. Deleted
// own users are found by id.
func (s *State) Find(who string) (site.RecordID, error) {
	who = strings.TrimSpace(who)
	if id, err := site.ParseRecordID(who); err == nil {
		if _, err := s.User(id); err == nil {
			return id, nil
		}
	}
	number := who
	if own := s.Own(); digits(who) && len(who) == own.ExtLen {
		number = own.Code + who
	}
	if e, ok := s.Pick(number); ok {
		return e.User, nil
	}
	if e, ok := s.Pick(who); ok {
		return e.User, nil
	}
	var found []Entry
	s.mu.RLock()
	s.ix.each(func(e *Entry) {
		if who != "" && strings.EqualFold(e.Name, who) {
			found = append(found, *e)
		}
	})
	s.mu.RUnlock()
	switch len(found) {
	case 1:
		return found[0].User, nil
	case 0:
		return site.RecordID{}, fmt.Errorf("user %q: %w: give an extension, a number, a name or an id", who, ErrNotFound)
	}
	return site.RecordID{}, fmt.Errorf("user %q: %w: %d users have that name; give a number", who, ErrInvalid, len(found))
}

// number makes the full number of what was typed: an extension of this site, or
// a full number of any site of the fleet.
func (s *State) number(typed string) (string, error) {
	own := s.Own()
	switch {
	case !digits(typed):
		return "", fmt.Errorf("number %q: %w: digits only", typed, ErrInvalid)
	case own.Code == "":
		return "", fmt.Errorf("number %q: %w: this site has no record yet; wait until it has caught up", typed, ErrState)
	case len(typed) == own.ExtLen:
		return own.Code + typed, nil
	case len(typed) == len(own.Code)+own.ExtLen && strings.HasPrefix(typed, own.Code):
		return typed, nil
	}
	for _, x := range s.Sites() {
		if ext, ok := strings.CutPrefix(typed, x.Code); ok && len(ext) == x.ExtLen {
			return typed, nil
		}
	}
	return "", fmt.Errorf("number %q: %w: an extension of %d digits, or a site's code and its extension", typed, ErrInvalid, own.ExtLen)
}

// free says whether nobody but that user has the number or alias.
func (s *State) free(number string, but site.RecordID) error {
	for _, e := range s.Lookup(number) {
		if e.User != but {
			x, _ := s.Site(e.Home)
			return fmt.Errorf("number %s: %w: by %s (%s) of site %s", number, ErrTaken, e.Name, e.User, x.Code)
		}
	}
	return nil
}

func checkE164(n string) error {
	if n != "" && (len(n) < 5 || len(n) > 16 || n[0] != '+' || !digits(n[1:]) || n[1] == '0') {
		return fmt.Errorf("E.164 number %q: %w: + and 4 to 15 digits", n, ErrInvalid)
	}
	return nil
}

func checkText(what, v string, n int) error {
	if len(v) > n || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return fmt.Errorf("%s %.40q: %w: at most %d bytes, no control characters", what, v, ErrInvalid, n)
	}
	return nil
}
