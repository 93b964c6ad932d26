package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Administrators log in with a name and a password. No box has the password: it
// opens a key that all boxes keep closed, and the key signs a session for one box
// (state.md §7). What a session is asked for counts as long as the administrator
// does, by what this box knows at that moment.

const (
	leastAdminPassword = 12
	mostSessions       = 1000
	mostGuessers       = 4096
	freeGuesses        = 3
	namePause          = 10 * time.Second // by whomever: a stranger's guesses must not keep the owner out
	fromPause          = 5 * time.Minute
)

// sessions are the log-ins at this box. They end with the process.
type sessions struct {
	open  chan struct{} // one password is tried at a time: each takes 19 MiB
	mu    sync.Mutex
	live  map[[sha256.Size]byte]*trust.Session
	wrong map[string]guesses // by "from" or "name", whichever guesses
	decoy []byte             // a closed key that no password opens
}

type guesses struct {
	n     int
	until time.Time
}

func newSessions() *sessions {
	return &sessions{open: make(chan struct{}, 1), live: map[[sha256.Size]byte]*trust.Session{}, wrong: map[string]guesses{}}
}

// early says how long whoever asks has to wait.
func (s *sessions) early(now time.Time, keys ...string) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		wait = max(wait, s.wrong[k].until.Sub(now))
	}
	return wait
}

// guessed counts a wrong password: the pause doubles from a second.
func (s *sessions) guessed(now time.Time, most time.Duration, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.wrong[key]
	if g.n++; g.n >= freeGuesses {
		g.until = now.Add(min(time.Second<<min(g.n-freeGuesses, 20), most))
	}
	if len(s.wrong) >= mostGuessers {
		for k, x := range s.wrong {
			if now.After(x.until.Add(time.Hour)) || len(s.wrong) >= mostGuessers && k != key && now.After(x.until) {
				delete(s.wrong, k)
			}
		}
	}
	if len(s.wrong) < mostGuessers || s.wrong[key].n > 0 { // else all of them wait: nobody is forgotten for a newcomer
		s.wrong[key] = g
	}
}

func (s *sessions) right(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		delete(s.wrong, k)
	}
}

func (n *Node) admin(a *trust.Admin) api.Admin {
	out := api.Admin{ID: a.ID().String(), Name: a.Name, Fleet: a.Fleet, Sites: []string{}, Issued: time.Unix(a.Issued, 0).UTC(), Issuer: a.Parent.String()}
	if g, ok := n.book.Grant(a.Parent); ok {
		out.Issuer = n.nodeName(g.Node())
	}
	for _, id := range a.Sites {
		if x, ok := n.state.Site(id); ok {
			out.Sites = append(out.Sites, x.Code)
		} else {
			out.Sites = append(out.Sites, id.String())
		}
	}
	return out
}

// Admins implements api.Sessions.
func (b *backend) Admins(context.Context) ([]api.Admin, error) {
	out := []api.Admin{}
	for _, a := range b.n.book.Admins() {
		out = append(out, b.n.admin(a))
	}
	return out, nil
}

// mine says whether who asks may appoint or end a. Console and token are the
// box's own.
func mine(ctx context.Context, n *Node, fleet bool, sites []site.ID) error {
	s := api.SessionOf(ctx)
	if s == nil || s.Admin == nil || s.Admin.Fleet {
		return nil
	}
	for _, id := range sites {
		x, _ := n.state.Site(id)
		fleet = fleet || !slices.Contains(s.Admin.Sites, x.Code)
	}
	if fleet || len(sites) == 0 {
		return api.Denied(s.Name+" is an administrator of sites "+strings.Join(s.Admin.Sites, ", ")+" only", "ask an administrator of the fleet")
	}
	return nil
}

func (n *Node) password(given string) (string, error) {
	if given == "" {
		var b [16]byte
		if _, err := io.ReadFull(n.rand, b[:]); err != nil {
			return "", err
		}
		return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])), nil
	}
	if len(given) < leastAdminPassword {
		return "", api.Invalid(fmt.Sprintf("a password of %d characters", len(given)), fmt.Sprintf("take %d or more, or leave it out and one is made", leastAdminPassword))
	}
	return given, nil
}

// CreateAdmin implements api.Sessions.
func (b *backend) CreateAdmin(ctx context.Context, by string, in api.NewAdmin) (api.Admin, error) {
	n := b.n
	want := trust.Admin{Name: in.Name, Fleet: in.Fleet, Issued: n.now().Unix()}
	switch {
	case in.Fleet && len(in.Sites) > 0:
		return api.Admin{}, api.Invalid("an administrator of the fleet is one of every site", "name sites, or the fleet")
	case !in.Fleet && len(in.Sites) == 0:
		want.Sites = []site.ID{n.member.Site}
	}
	for _, code := range in.Sites {
		x, ok := n.state.SiteByCode(code)
		if !ok {
			return api.Admin{}, api.NotFound(fmt.Sprintf("there is no site %q", code), "\"ccnode status\" shows codes")
		}
		if !slices.Contains(want.Sites, x.ID) {
			want.Sites = append(want.Sites, x.ID)
		}
	}
	switch low := strings.ToLower(in.Name); {
	case slices.Contains([]string{"console", "token", "phone", "system", "ccnode"}, low):
		return api.Admin{}, api.Conflict(fmt.Sprintf("%q is what boxes call something else", in.Name), "choose another")
	case slices.ContainsFunc(n.book.Admins(), func(a *trust.Admin) bool { return strings.ToLower(a.Name) == low }):
		return api.Admin{}, api.Conflict(fmt.Sprintf("there is an administrator %q", in.Name), "choose another name, or revoke that one first")
	}
	if err := mine(ctx, n, want.Fleet, want.Sites); err != nil {
		return api.Admin{}, err
	}
	pw, err := n.password(in.Password)
	if err != nil {
		return api.Admin{}, err
	}
	pub, key, err := ed25519.GenerateKey(n.rand)
	if err != nil {
		return api.Admin{}, err
	}
	want.Key = pub
	own, err := n.book.Member(n.id.Node())
	if err != nil {
		return api.Admin{}, refuse(err)
	}
	fleet := n.book.Fleet()
	a, err := n.id.IssueAdmin(fleet, own, want)
	if errors.Is(err, trust.ErrRights) {
		return api.Admin{}, api.Denied(err.Error(), "ask a box that admits others (ccnode node raise), or appoint for this box's own site")
	}
	if err != nil {
		return api.Admin{}, api.Invalid(err.Error(), "correct it")
	}
	sealed, err := trust.SealAdminKey(fleet, key.Seed(), pw, n.rand)
	if err != nil {
		return api.Admin{}, err
	}
	if err := n.state.WriteAdmin(ctx, by, trust.AdminWrite(a), trust.AdminKeyWrite(fleet, key, sealed)); err != nil {
		return api.Admin{}, refuse(err)
	}
	n.log.Info("Administrator appointed", "name", a.Name, "by", by)
	out := n.admin(a)
	if in.Password == "" {
		out.Password = pw
	}
	return out, nil
}

// named finds the administrators in force of a name or id: two, if two sides of
// a cut appointed one each.
func (n *Node) named(who string) (out []*trust.Admin) {
	for _, a := range n.book.Admins() {
		if strings.EqualFold(a.Name, who) || a.ID().String() == who {
			out = append(out, a)
		}
	}
	return out
}

// opened finds whose key the password opens. It takes as long whether the name
// exists or not.
func (n *Node) opened(ctx context.Context, from, name, password string) (*trust.Admin, ed25519.PrivateKey, error) {
	s, now, fleet := n.sessions, n.now(), n.book.Fleet()
	kf, kn := "from "+from, "name "+strings.ToLower(name)
	if from == "console" {
		kf = kn // the socket's own lock is the folder; names have their pause
	}
	if wait := s.early(now, kf, kn); wait > 0 {
		return nil, nil, api.TooSoon("too many wrong passwords", fmt.Sprintf("try again in %d s", int(wait.Seconds())+1))
	}
	select {
	case s.open <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-s.open }()
	tried := 0
	for _, a := range n.named(name) {
		id := a.ID()
		var keys [][]byte
		n.engine.View(func(v replica.View) {
			for _, x := range v.Set(crdt.Trust).Versions(crdt.Cell{Scope: crdt.Trust, Table: trust.TableAdmin, Record: string(id[:]), Field: trust.AdminKey}) {
				keys = append(keys, slices.Clone(x.Value))
			}
		})
		for _, k := range keys {
			sealed, err := trust.SealedKey(fleet, id, k)
			if err != nil || tried >= 4 {
				continue
			}
			tried++
			if key, err := trust.OpenAdminKey(fleet, a, sealed, password); err == nil {
				s.right(kf, kn)
				return a, key, nil
			}
		}
	}
	if tried == 0 {
		if err := n.tryDecoy(password); err != nil {
			return nil, nil, err
		}
	}
	s.guessed(now, namePause, kn)
	if kf != kn {
		s.guessed(now, fromPause, kf)
	}
	n.log.Warn("Log-in failed", "name", name, "from", from)
	return nil, nil, &api.Error{Status: 401, What: "the name or the password is wrong", Do: "an administrator of the fleet can revoke a name and appoint it anew"}
}

func (n *Node) tryDecoy(password string) error {
	s, fleet := n.sessions, n.book.Fleet()
	seed := make([]byte, ed25519.SeedSize)
	a := &trust.Admin{Key: ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)}
	if s.decoy == nil {
		never, err := n.password("")
		if err == nil {
			s.decoy, err = trust.SealAdminKey(fleet, seed, never, n.rand)
		}
		if err != nil {
			return err
		}
	}
	_, _ = trust.OpenAdminKey(fleet, a, s.decoy, password)
	return nil
}

// SetAdminPassword implements api.Sessions.
func (b *backend) SetAdminPassword(ctx context.Context, name, from string, p api.NewAdminPassword) (api.Admin, error) {
	n := b.n
	pw, err := n.password(p.New)
	if err != nil {
		return api.Admin{}, err
	}
	a, key, err := n.opened(ctx, from, name, p.Old)
	if err != nil {
		return api.Admin{}, err
	}
	sealed, err := trust.SealAdminKey(n.book.Fleet(), key.Seed(), pw, n.rand)
	if err != nil {
		return api.Admin{}, err
	}
	if err := n.state.WriteAdmin(ctx, a.Name, trust.AdminKeyWrite(n.book.Fleet(), key, sealed)); err != nil {
		return api.Admin{}, refuse(err)
	}
	n.log.Info("Administrator's password changed", "name", a.Name)
	out := n.admin(a)
	if p.New == "" {
		out.Password = pw
	}
	return out, nil
}

// RevokeAdmin implements api.Sessions.
func (b *backend) RevokeAdmin(ctx context.Context, by, who string) (api.Admin, error) {
	n := b.n
	found := n.named(who)
	switch {
	case len(found) == 0:
		return api.Admin{}, api.NotFound(fmt.Sprintf("there is no administrator %q", who), "\"ccnode admin list\" shows them")
	case len(found) > 1:
		return api.Admin{}, api.Conflict(fmt.Sprintf("%d administrators are named %q", len(found), who), "name one by its id")
	}
	a := found[0]
	if err := mine(ctx, n, a.Fleet, a.Sites); err != nil {
		return api.Admin{}, err
	}
	if err := n.state.WriteAdmin(ctx, by, trust.RevokeAdminWrite(a)); err != nil {
		return api.Admin{}, refuse(err)
	}
	n.log.Info("Administrator revoked", "name", a.Name, "by", by)
	return n.admin(a), nil
}

// LogIn implements api.Sessions.
func (b *backend) LogIn(ctx context.Context, from string, l api.LogIn) (api.Session, error) {
	n, s := b.n, b.n.sessions
	a, key, err := n.opened(ctx, from, l.Name, l.Password)
	if err != nil {
		return api.Session{}, err
	}
	if !a.Fleet && !slices.Contains(a.Sites, n.member.Site) {
		return api.Session{}, api.Denied(a.Name+" is an administrator of sites "+strings.Join(n.admin(a).Sites, ", "), "log in at a box of one of them")
	}
	own, err := n.book.Member(n.id.Node())
	if err != nil {
		return api.Session{}, refuse(err)
	}
	now := n.now()
	x, err := trust.LogIn(n.book.Fleet(), a, key, own, now, now.Add(trust.MaxSession))
	if err != nil {
		return api.Session{}, err
	}
	var b32 [32]byte
	if _, err := io.ReadFull(n.rand, b32[:]); err != nil {
		return api.Session{}, err
	}
	token := api.SessionToken + base64.RawURLEncoding.EncodeToString(b32[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, old := range s.live {
		if n.now().UnixMilli() > old.End {
			delete(s.live, k)
		}
	}
	if len(s.live) >= mostSessions {
		return api.Session{}, api.Unavailable("too many are logged in at this box", "log out where a session is not used, or use another box")
	}
	s.live[sha256.Sum256([]byte(token))] = x
	n.log.Info("Administrator logged in", "name", a.Name, "from", from)
	out := n.session(x)
	out.Token = token
	return out, nil
}

func (n *Node) session(x *trust.Session) api.Session {
	a, ends := n.admin(x.Admin), time.UnixMilli(x.End).UTC()
	return api.Session{Name: x.Admin.Name, Admin: &a, Ends: &ends}
}

// LogOut implements api.Sessions.
func (b *backend) LogOut(token string) {
	s := b.n.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, sha256.Sum256([]byte(token)))
}

// Who implements api.Sessions.
func (b *backend) Who(ctx context.Context, token string) (context.Context, api.Session, error) {
	n, s, k := b.n, b.n.sessions, sha256.Sum256([]byte(token))
	s.mu.Lock()
	x := s.live[k]
	s.mu.Unlock()
	if x == nil {
		return ctx, api.Session{}, api.ErrNoSession
	}
	_, err := n.book.Admin(x.Admin.ID())
	if now := n.now().UnixMilli(); err != nil || now > x.End || now < x.Start-time.Hour.Milliseconds() {
		b.LogOut(token)
		return ctx, api.Session{}, sessionOver(err)
	}
	return context.WithValue(ctx, sessionKey{}, x), n.session(x), nil
}

func sessionOver(err error) error {
	if err == nil {
		return api.ErrNoSession
	}
	return fmt.Errorf("%w: %w", api.ErrNoSession, err)
}
