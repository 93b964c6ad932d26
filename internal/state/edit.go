package state

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A Spec asks for a user.
type Spec struct {
	Number   string  // extension of this site, or a full number
	Site     site.ID // home; zero: this one. Others create their own users
	Name     string
	Password string // "": a strong one is made
	PIN      string // "": none
	E164     string
	SHA256   bool // the phone understands SHA-256 (RFC 8760)
}

// Create makes a user with one device and returns both; the device's password
// is in it. It is the home's own change; the fleet's directory follows at once.
func (s *State) Create(ctx context.Context, by string, n Spec) (User, error) {
	fail := func(err error) (User, error) { return User{}, fmt.Errorf("create user %q: %w", n.Number, err) }
	if !n.Site.IsZero() && n.Site != s.cfg.Site {
		x, _ := s.Site(n.Site)
		return fail(fmt.Errorf("%w: ask a node of site %s", ErrOtherSite, x.Code))
	}
	s.write.Lock()
	defer s.write.Unlock()
	user, ws, err := s.newUser(&n)
	if err != nil {
		return fail(err)
	}
	m := Mutation{Scope: s.scope, Writes: ws}
	s.cfg.Engine.View(func(v View) {
		ref, ws := s.person(v, by)
		m.By, m.Writes = ref, append(m.Writes, ws...)
	})
	if _, err := s.commit(ctx, m); err != nil {
		return fail(err)
	}
	s.follow(ctx, user)
	u, err := s.User(user)
	if err != nil {
		return fail(err)
	}
	for i := range u.Devices {
		u.Devices[i].Password = n.Password
	}
	return u, nil
}

// newUser checks what is asked for against what is here, and says what to write.
// A password that is made is put into n. s.write is held.
func (s *State) newUser(n *Spec) (user site.RecordID, ws []crdt.Write, err error) {
	number, err := s.number(n.Number)
	if err == nil {
		err = s.free(number, user)
	}
	if err == nil {
		err = checkText("name", n.Name, 120)
	}
	if err == nil {
		err = checkE164(n.E164)
	}
	if err == nil && n.E164 != "" {
		err = s.free(n.E164, user)
	}
	switch {
	case err != nil:
	case n.Password == "":
		n.Password, err = s.newPassword()
	default:
		err = checkPassword(n.Password)
	}
	if err != nil {
		return user, nil, err
	}
	if user, err = s.newID(); err != nil {
		return user, nil, err
	}
	phone, err := s.newID()
	if err != nil {
		return user, nil, err
	}
	sec, err := s.sealSecret(phone, secret{Password: n.Password})
	if err != nil {
		return user, nil, err
	}
	add := func(table uint16, id site.RecordID, f string, value []byte) {
		ws = append(ws, crdt.Write{Table: table, Record: string(id[:]), Field: f, Value: value})
	}
	add(TableUser, user, userNumber, []byte(number))
	add(TableUser, user, userName, []byte(n.Name))
	if n.E164 != "" {
		add(TableUser, user, userE164, []byte(n.E164))
	}
	if n.PIN != "" {
		pin, err := s.sealPIN(user, n.PIN)
		if err != nil {
			return user, nil, err
		}
		add(TableUser, user, userPIN, pin)
	}
	add(TableDevice, phone, devUser, user[:])
	add(TableDevice, phone, devSecret, sec)
	if n.SHA256 {
		add(TableDevice, phone, devSHA256, boolValue(true))
	}
	return user, ws, nil
}

// follow brings the directory after a record. The record is durable: if this
// fails, Run makes it good later.
func (s *State) follow(ctx context.Context, users ...site.RecordID) {
	if _, err := s.syncDirectory(ctx, users...); err != nil {
		s.cfg.Log.Warn("The directory follows later", "err", err)
		s.dmu.Lock()
		for _, u := range users {
			s.dirty[u] = true
		}
		s.dmu.Unlock()
		s.stirUp()
	}
}

func (s *State) stirUp() {
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// A Patch changes the fields that are present and leaves the others alone.
type Patch struct {
	Number, Name, CallerName, E164, Language  *string
	Disabled, Deleted                         *bool
	ForwardAll, OnBusy, OnNoAnswer, OnOffline *string
	DND, NoVoicemail, AlwaysPIN               *bool
	Ring                                      *time.Duration // whole seconds; 0: the default
	Class                                     *string        // of service; "" is the site's
	PIN                                       *string        // "" removes it
	Password                                  *string        // of the first device; "" makes one
	SecurityReset                             bool           // PIN and password of this patch alone count
}

// Set edits an own user. etag says what the person had seen ("": what is here);
// what others wrote meanwhile is not lost but shown in Merges. The password, if
// one was set, is in the returned device.
func (s *State) Set(ctx context.Context, by string, id site.RecordID, etag string, p Patch) (User, error) {
	fail := func(err error) (User, error) { return User{}, fmt.Errorf("change user %s: %w", id, err) }
	s.write.Lock()
	defer s.write.Unlock()
	u, err := s.User(id)
	if err != nil {
		return fail(err)
	}
	if !u.Here {
		x, _ := s.Site(u.Site)
		return fail(fmt.Errorf("%w: ask a node of site %s", ErrOtherSite, x.Code))
	}
	token, err := s.token(id, etag)
	if err != nil {
		return fail(err)
	}
	ws, err := s.patch(u, p)
	if err != nil {
		return fail(err)
	}
	var shown string
	if p.Password != nil {
		w, pw, err := s.passwordWrite(u, *p.Password, p.SecurityReset)
		if err != nil {
			return fail(err)
		}
		ws, shown = append(ws, w), pw
	}
	m := Mutation{Scope: s.scope, Token: token}
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for _, w := range ws {
			if w.Field == userDeleted && w.Table == TableUser && isTrue(w.Value) {
				w.Value = deletedValue(saw(reader{set, TableUser, w.Record}, token))
			}
			// What already stands alone, as the person saw it, is not written again.
			vs := set.Versions(crdt.Cell{Table: w.Table, Record: w.Record, Field: w.Field})
			_, f := fieldOf(crdt.Cell{Table: w.Table, Field: w.Field})
			// Disabled or deleted once more is: an undo that has not seen it loses.
			again := f.policy == True && isTrue(w.Value)
			if len(vs) == 1 && !again && sameValue(f, vs[0].Value, w.Value) && vs[0].Flags == w.Flags || len(vs) == 0 && (len(w.Value) == 0 || bytes.Equal(w.Value, []byte{0})) {
				continue
			}
			m.Writes = append(m.Writes, w)
		}
		ref, more := s.person(v, by)
		m.By = ref
		if len(m.Writes) > 0 {
			m.Writes = append(m.Writes, more...)
			for _, w := range more { // the person's name is not what the token is about
				if token != nil {
					c := crdt.Cell{Scope: s.scope, Table: w.Table, Record: w.Record, Field: w.Field}
					token[c] = set.Known(c)
				}
			}
		}
	})
	if len(m.Writes) > 0 {
		if _, err := s.commit(ctx, m); err != nil {
			return fail(err)
		}
		s.follow(ctx, id)
	}
	if u, err = s.User(id); err != nil {
		return fail(err)
	}
	if shown != "" && len(u.Devices) > 0 {
		u.Devices[0].Password = shown
	}
	return u, nil
}

// saw is what the deleter knew of the record.
func saw(r reader, token map[crdt.Cell]crdt.Context) (ctx crdt.Context) {
	if token == nil {
		return r.seen()
	}
	for c, seen := range token {
		if c.Table == r.table && c.Record == r.rec {
			ctx = ctx.Join(seen)
		}
	}
	return ctx
}

// patch turns a Patch into writes, passwords left out.
func (s *State) patch(u User, p Patch) (ws []crdt.Write, err error) {
	add := func(f string, value []byte) {
		ws = append(ws, crdt.Write{Table: TableUser, Record: string(u.ID[:]), Field: f, Value: value})
	}
	if p.Number != nil {
		n, err := s.number(*p.Number)
		if err == nil && n != u.Number {
			err = s.free(n, u.ID)
		}
		if err != nil {
			return nil, err
		}
		add(userNumber, []byte(n))
	}
	if p.E164 != nil {
		err := checkE164(*p.E164)
		if err == nil && *p.E164 != "" && *p.E164 != u.E164 {
			err = s.free(*p.E164, u.ID)
		}
		if err != nil {
			return nil, err
		}
		add(userE164, []byte(*p.E164))
	}
	if p.Class != nil {
		if err := oneOf("class", *p.Class, classes...); err != nil {
			return nil, err
		}
		add(userClass, []byte(*p.Class))
	}
	for _, t := range []struct {
		what, f string
		v       *string
		n       int
	}{{"name", userName, p.Name, 120}, {"caller name", userCaller, p.CallerName, 120}, {"language", userLanguage, p.Language, 16},
		{"forward", userAll, p.ForwardAll, 64}, {"forward", userBusy, p.OnBusy, 64},
		{"forward", userNoAnswer, p.OnNoAnswer, 64}, {"forward", userOffline, p.OnOffline, 64}} {
		if t.v != nil {
			if err := checkText(t.what, *t.v, t.n); err != nil {
				return nil, err
			}
			add(t.f, []byte(*t.v))
		}
	}
	for _, t := range []struct {
		f string
		v *bool
	}{{userDisabled, p.Disabled}, {userDeleted, p.Deleted}, {userDND, p.DND}, {userNoMail, p.NoVoicemail}, {userAlwaysPIN, p.AlwaysPIN}} {
		if t.v != nil {
			add(t.f, boolValue(*t.v))
		}
	}
	if p.Ring != nil {
		if *p.Ring != 0 && (*p.Ring < 5*time.Second || *p.Ring > 120*time.Second) {
			return nil, fmt.Errorf("ring time %s: %w: 5 to 120 seconds", *p.Ring, ErrInvalid)
		}
		add(userRing, intValue(int(*p.Ring/time.Second)))
	}
	if p.PIN != nil {
		var pin []byte
		if *p.PIN != "" {
			if pin, err = s.sealPIN(u.ID, *p.PIN); err != nil {
				return nil, err
			}
		}
		add(userPIN, pin)
		if p.SecurityReset {
			ws[len(ws)-1].Flags = crdt.Reset
		}
	}
	return ws, nil
}

func (s *State) passwordWrite(u User, pw string, reset bool) (w crdt.Write, shown string, err error) {
	if len(u.Devices) == 0 {
		return w, "", fmt.Errorf("password: %w: the user has no device", ErrNotFound)
	}
	if pw == "" {
		if pw, err = s.newPassword(); err != nil {
			return w, "", err
		}
	} else if err := checkPassword(pw); err != nil {
		return w, "", err
	}
	id := u.Devices[0].ID
	sec, err := s.sealSecret(id, secret{Password: pw})
	if err != nil {
		return w, "", err
	}
	w = crdt.Write{Table: TableDevice, Record: string(id[:]), Field: devSecret, Value: sec}
	if reset {
		w.Flags = crdt.Reset
	}
	return w, pw, nil
}
