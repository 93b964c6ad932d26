package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Admin is a person who may log in at boxes.
type Admin struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Fleet    bool      `json:"fleet" doc:"Of every site, and of the fleet's settings"`
	Sites    []string  `json:"sites" doc:"Codes of the sites, if not of the fleet"`
	Issued   time.Time `json:"issued"`
	Issuer   string    `json:"issuer" doc:"The box that appointed; an administrator ends with it if it is revoked"`
	Password string    `json:"password,omitempty" doc:"Shown when made, if none was given"`
}

// NewAdmin appoints one.
type NewAdmin struct {
	Name     string   `json:"name" doc:"As the person logs in; shown beside every change" minLength:"1" maxLength:"64" pattern:"^[^\\s\\x00-\\x1f\\x7f]+$"`
	Fleet    bool     `json:"fleet,omitempty" doc:"Every site, and the fleet's settings"`
	Sites    []string `json:"sites,omitempty" doc:"Codes of sites; with neither fleet nor sites: the box's own site" maxItems:"16"`
	Password string   `json:"password,omitempty" doc:"12 characters or more; left out, one is made" maxLength:"128"`
}

// NewAdminPassword changes the password of an administrator. No box knows it: the
// old one opens the key, the new one closes it.
type NewAdminPassword struct {
	Old string `json:"old" maxLength:"128"`
	New string `json:"new,omitempty" doc:"12 characters or more; left out, one is made" maxLength:"128"`
}

// LogIn asks for a session.
type LogIn struct {
	Name     string `json:"name" maxLength:"64"`
	Password string `json:"password" maxLength:"128"`
}

// Session is a log-in.
type Session struct {
	Name  string     `json:"name" doc:"Who this is; console for the box's own socket, token for admin.token"`
	Admin *Admin     `json:"admin,omitempty"`
	Token string     `json:"token,omitempty" doc:"Shown once: Authorization: Bearer. It counts at this box, until it ends, until log-out, until the administrator is revoked, or until the box is started again"`
	Ends  *time.Time `json:"ends,omitempty"`
}

// Sessions is a Backend where administrators log in.
type Sessions interface {
	Admins(ctx context.Context) ([]Admin, error)
	CreateAdmin(ctx context.Context, by string, n NewAdmin) (Admin, error)
	SetAdminPassword(ctx context.Context, name, from string, p NewAdminPassword) (Admin, error)
	RevokeAdmin(ctx context.Context, by, who string) (Admin, error)
	// LogIn: from is the address that asks, or console.
	LogIn(ctx context.Context, from string, l LogIn) (Session, error)
	LogOut(token string)
	// Who finds the session of a token: ctx carries it to what is called with it.
	Who(ctx context.Context, token string) (context.Context, Session, error)
}

// ErrNoSession: the token is of no session that counts.
var ErrNoSession = errors.New("that session is over")

// SessionToken is how every session's token begins.
const SessionToken = "ccs_"

type sessionKey struct{}
type tokenKey struct{}
type fromKey struct{}

// SessionOf returns the session under which ctx asks; nil: console or token.
func SessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// Denied is a refusal for lack of rights.
func Denied(what, do string) error { return &Error{http.StatusForbidden, what, do} }

// TooSoon is a refusal of an attempt that came too early.
func TooSoon(what, do string) error { return &Error{http.StatusTooManyRequests, what, do} }

const loginPath = "/api/" + Version + "/login"

// Whoever is administrator of some sites only may do there what concerns them;
// what concerns the fleet wants an administrator of the fleet.
var siteTags = []string{"calls", "merges", "phones", "shop", "trunks", "users", "voicemail", "admins", "groups", "menus", "numbers", "hours"}

func mayUse(s *Session, o *huma.Operation) error {
	if s.Admin == nil || s.Admin.Fleet || slices.ContainsFunc(o.Tags, func(t string) bool { return slices.Contains(siteTags, t) }) ||
		o.Method == http.MethodGet && !strings.HasSuffix(o.Path, "/recovery") && !strings.HasSuffix(o.Path, "/secrets") {
		return nil
	}
	return Denied(o.Method+" "+o.Path+" concerns the fleet, and "+s.Name+" is an administrator of sites", "ask an administrator of the fleet")
}

func registerAdmins(h huma.API, b Backend) {
	k, ok := b.(Sessions)
	if !ok {
		return
	}
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	huma.Register(h, op("list-admins", get, "/admins", "List the administrators in force", "admins"),
		func(ctx context.Context, _ *struct{}) (*body[[]Admin], error) {
			out, err := k.Admins(ctx)
			return &body[[]Admin]{out}, problem(err)
		})
	huma.Register(h, op("create-admin", post, "/admins", "Appoint an administrator", "admins"),
		func(ctx context.Context, in *struct{ Body NewAdmin }) (*body[Admin], error) {
			out, err := k.CreateAdmin(ctx, by(ctx), in.Body)
			return &body[Admin]{out}, problem(err)
		})
	huma.Register(h, op("set-admin-password", post, "/admins/{admin}/password", "Change an administrator's password", "admins"),
		func(ctx context.Context, in *struct {
			Admin string `path:"admin" maxLength:"64"`
			Body  NewAdminPassword
		}) (*body[Admin], error) {
			out, err := k.SetAdminPassword(ctx, in.Admin, from(ctx), in.Body)
			return &body[Admin]{out}, problem(err)
		})
	huma.Register(h, op("revoke-admin", del, "/admins/{admin}", "End an administrator, everywhere", "admins"),
		func(ctx context.Context, in *struct {
			Admin string `path:"admin" doc:"Name or id" maxLength:"64"`
		}) (*body[Admin], error) {
			out, err := k.RevokeAdmin(ctx, by(ctx), in.Admin)
			return &body[Admin]{out}, problem(err)
		})
	in := op("log-in", post, "/login", "Log in as an administrator", "admins")
	in.Security = []map[string][]string{} // the password is the proof
	huma.Register(h, in, func(ctx context.Context, in *struct{ Body LogIn }) (*body[Session], error) {
		out, err := k.LogIn(ctx, from(ctx), in.Body)
		return &body[Session]{out}, problem(err)
	})
	huma.Register(h, op("who-am-i", get, "/login", "Who this is", "admins"),
		func(ctx context.Context, _ *struct{}) (*body[Session], error) {
			if s := SessionOf(ctx); s != nil {
				return &body[Session]{*s}, nil
			}
			return &body[Session]{Session{Name: by(ctx)}}, nil
		})
	huma.Register(h, op("log-out", del, "/login", "End this session", "admins"),
		func(ctx context.Context, _ *struct{}) (*none, error) {
			if SessionOf(ctx) == nil {
				return nil, problem(Invalid("this is no session", "only what POST /login gave can be ended"))
			}
			token, _ := ctx.Value(tokenKey{}).(string)
			k.LogOut(token)
			return nil, nil
		})
}

// stillCounts says whether what let a long request in does so now.
func stillCounts(ctx context.Context, b Backend) bool {
	token, _ := ctx.Value(tokenKey{}).(string)
	k, ok := b.(Sessions)
	if token == "" || !ok {
		return true
	}
	_, _, err := k.Who(ctx, token)
	return err == nil
}

func from(ctx context.Context) string {
	s, _ := ctx.Value(fromKey{}).(string)
	return s
}
