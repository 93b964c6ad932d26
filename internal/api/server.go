package api

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"carrierclass.net/ccnode/internal/site"
)

// Version is the version of the interface, in every path.
const Version = "v1"

// Config says what the interface serves and whom it lets in.
type Config struct {
	Backend Backend
	Build   string // version of the program, for the OpenAPI document
	Token   string // bearer token asked for on network listeners; empty: nobody gets in there
	Log     *slog.Logger
}

type whoKey struct{}

// console is who speaks through the unix socket.
const console = "console"

// Local marks connections of a listener as the box's own administrator: a unix
// socket whose file permissions are the lock. Use as http.Server.ConnContext.
func Local(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(*net.UnixConn); ok {
		return context.WithValue(ctx, whoKey{}, console)
	}
	return ctx
}

func by(ctx context.Context) string {
	s, _ := ctx.Value(whoKey{}).(string)
	return s
}

// Handler returns the interface: /api/v1, /openapi.json and /healthz.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	hc := huma.DefaultConfig("ccnode", c.Build)
	hc.OpenAPIPath = "/openapi"
	hc.DocsPath = "" // the documentation page would load scripts from elsewhere
	hc.Info.Description = "A branch telephone system: every node answers, at once, from its own disk."
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer"},
	}
	hc.Security = []map[string][]string{{"token": {}}}
	h := humago.New(mux, hc)
	sessions, _ := c.Backend.(Sessions)
	h.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) {
		if forwarded(h, ctx, next) {
			return
		}
		here := next
		next = func(ctx huma.Context) {
			if !elsewhere(h, c.Backend, ctx) {
				here(ctx)
			}
		}
		given, ok := strings.CutPrefix(ctx.Header("Authorization"), "Bearer ")
		who := by(ctx.Context())
		ctx = huma.WithValue(ctx, fromKey{}, who)
		if who == "" {
			host, _, _ := net.SplitHostPort(ctx.RemoteAddr())
			ctx = huma.WithValue(ctx, fromKey{}, host)
		}
		if ok && strings.HasPrefix(given, SessionToken) && sessions != nil { // also through the socket: who shows a session is that person
			under, s, err := sessions.Who(ctx.Context(), given)
			if err == nil {
				err = mayUse(&s, ctx.Operation())
			}
			switch {
			case err == nil:
				under = context.WithValue(under, whoKey{}, s.Name)
				under = context.WithValue(under, tokenKey{}, given)
				next(huma.WithContext(ctx, context.WithValue(under, sessionKey{}, &s)))
			case errors.Is(err, ErrNoSession):
				_ = huma.WriteErr(h, ctx, http.StatusUnauthorized, err.Error()+"; log in again")
			default:
				_ = huma.WriteErr(h, ctx, http.StatusForbidden, err.Error())
			}
			return
		}
		if ok && c.Token != "" && subtle.ConstantTimeCompare([]byte(given), []byte(c.Token)) == 1 {
			if who == "" {
				ctx = huma.WithValue(ctx, whoKey{}, "token")
			}
			next(ctx)
			return
		}
		if o := ctx.Operation(); who != "" || o.Path == loginPath && o.Method == http.MethodPost {
			next(ctx)
			return
		}
		ctx.SetHeader("WWW-Authenticate", `Bearer realm="ccnode"`)
		_ = huma.WriteErr(h, ctx, http.StatusUnauthorized,
			"this interface wants a token; send Authorization: Bearer with the content of admin.token in the node's data folder, or what a log-in gave (ccnode login), or use the node's unix socket")
	})
	register(h, c.Backend)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "ok\n")
	})
	return recoverer(mux, c.Log)
}

func recoverer(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("API handler panicked", "path", r.URL.Path, "panic", fmt.Sprint(p))
				http.Error(w, `{"title":"Internal Server Error","status":500,"detail":"the node made a mistake; see its log"}`, http.StatusInternalServerError)
			}
		}()
		r.Body = http.MaxBytesReader(w, r.Body, bodyLimit(r.URL.Path))
		next.ServeHTTP(w, r)
	})
}

// problem turns the backend's refusals into RFC 9457 answers.
func problem(err error) error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return huma.NewError(e.Status, e.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return huma.NewError(http.StatusGatewayTimeout, "the request was given up: "+err.Error())
	}
	return huma.NewError(http.StatusInternalServerError, err.Error())
}

type body[T any] struct {
	Body T
}

type tagged[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

type none struct{}

// WhoInput names a user in a path. It is exported because the generator reads embedded structs only then.
type WhoInput struct {
	Who string `path:"user" doc:"Number, extension, name or id" maxLength:"120"`
}

// MessageInput names one message of a user.
type MessageInput struct {
	WhoInput
	ID string `path:"id" maxLength:"16" minLength:"16"`
}

func op(id, method, path, summary, tag string) huma.Operation {
	return farParam(huma.Operation{OperationID: id, Method: method, Path: "/api/" + Version + path, Summary: summary, Tags: []string{tag}})
}

func register(h huma.API, b Backend) {
	get, post, patch, del := http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete

	huma.Register(h, op("status", get, "/status", "What this node knows of itself and of the fleet", "node"),
		func(ctx context.Context, _ *none) (*body[Status], error) {
			return &body[Status]{b.Status(ctx)}, nil
		})
	registerDoctor(h, b)
	registerGateways(h, b)
	registerSalvage(h, b)
	registerBulk(h, b)
	registerHeld(h, b)
	registerAdmins(h, b)
	huma.Register(h, op("check", post, "/check", "Try to reach every peer now", "node"),
		func(ctx context.Context, _ *none) (*none, error) { return nil, problem(b.Check(ctx)) })
	huma.Register(h, op("get-recovery", get, "/recovery", "The recovery words; on the box's own console only", "node"),
		func(ctx context.Context, _ *none) (*body[Recovery], error) {
			if err := consoleOnly(ctx); err != nil {
				return nil, problem(err)
			}
			r, err := b.Recovery(ctx)
			return &body[Recovery]{r}, problem(err)
		})
	huma.Register(h, op("confirm-recovery", post, "/recovery/confirm", "Forget the root key, once the words are written down", "node"),
		func(ctx context.Context, in *body[RecoveryCheck]) (*none, error) {
			if err := consoleOnly(ctx); err != nil {
				return nil, problem(err)
			}
			return nil, problem(b.ConfirmRecovery(ctx, in.Body.First, in.Body.Last))
		})
	huma.Register(h, op("recover", post, "/recovery/use", "Make this box an issuer with the recovery words; on its own console only", "node"),
		func(ctx context.Context, in *body[RecoverySheet]) (*none, error) {
			if err := consoleOnly(ctx); err != nil {
				return nil, problem(err)
			}
			return nil, problem(b.Recover(ctx, by(ctx), in.Body.Words))
		})
	huma.Register(h, op("raise-node", post, "/nodes/{node}/rights", "Give a box more rights", "node"),
		func(ctx context.Context, in *struct {
			Node string `path:"node" maxLength:"80"`
			Body NodeRights
		}) (*none, error) {
			return nil, problem(b.RaiseNode(ctx, by(ctx), in.Node, in.Body))
		})
	huma.Register(h, op("revoke-node", post, "/nodes/{node}/revoke", "Shut a box out of the fleet for good", "node"),
		func(ctx context.Context, in *struct {
			Node string   `path:"node" maxLength:"80"`
			Keep []string `query:"keep" maxItems:"300" doc:"Of the boxes that it admitted, those that stay: all, none, or names"`
		}) (*body[NodeSecrets], error) {
			x, err := b.NodeSecrets(ctx, in.Node)
			if err != nil {
				return nil, problem(err)
			}
			if err := b.RevokeNode(ctx, by(ctx), x.Node, in.Keep); err != nil {
				return nil, problem(err)
			}
			name := x.Name                      // the directory forgets a revoked box
			x, err = b.NodeSecrets(ctx, x.Node) // once more: nothing is wrapped for it from now on
			x.Name = name
			return &body[NodeSecrets]{x}, problem(err)
		})
	huma.Register(h, op("node-secrets", get, "/nodes/{node}/secrets", "What a box could open: names of secrets, never the secrets", "node"),
		func(ctx context.Context, in *struct {
			Node string `path:"node" maxLength:"80"`
		}) (*body[NodeSecrets], error) {
			x, err := b.NodeSecrets(ctx, in.Node)
			return &body[NodeSecrets]{x}, problem(err)
		})

	huma.Register(h, op("rotate-secrets", post, "/secrets/rotate", "Replace what a lost box could open of this site", "node"),
		func(ctx context.Context, in *body[SecretRotation]) (*body[RotatedSecrets], error) {
			x, err := b.RotateSecrets(ctx, by(ctx), in.Body.HeldBy)
			return &body[RotatedSecrets]{x}, problem(err)
		})

	huma.Register(h, op("list-users", get, "/users", "Users of the fleet", "users"),
		func(ctx context.Context, in *UserSearch) (*struct {
			Next string `header:"Ccnode-Next" doc:"Send it as after for those that follow; absent if none do"`
			Body []User
		}, error) {
			q := *in
			if ctx.Value(forwardedKey{}) != nil { // the directory is everywhere
				q.own = true
			}
			us, next, err := b.Users(ctx, q)
			return &struct {
				Next string `header:"Ccnode-Next" doc:"Send it as after for those that follow; absent if none do"`
				Body []User
			}{next, us}, problem(err)
		})
	create := op("create-user", post, "/users", "Create a user and a phone's log-in", "users")
	create.DefaultStatus = http.StatusCreated
	huma.Register(h, create, func(ctx context.Context, in *body[NewUser]) (*tagged[User], error) {
		u, err := b.CreateUser(ctx, by(ctx), in.Body)
		return &tagged[User]{u.ETag, u}, problem(err)
	})
	huma.Register(h, op("get-user", get, "/users/{user}", "One user", "users"),
		func(ctx context.Context, in *WhoInput) (*tagged[User], error) {
			u, err := b.User(ctx, in.Who)
			return &tagged[User]{u.ETag, u}, problem(err)
		})
	huma.Register(h, op("set-user", patch, "/users/{user}", "Change some of a user's fields", "users"),
		func(ctx context.Context, in *struct {
			WhoInput
			IfMatch string `header:"If-Match" doc:"ETag of the answer the person acted on. A stale one is not refused: the edit is kept beside what it did not see, and shown in merges" maxLength:"8192"`
			Body    UserPatch
		}) (*tagged[User], error) {
			u, err := b.PatchUser(ctx, by(ctx), in.Who, in.IfMatch, in.Body)
			return &tagged[User]{u.ETag, u}, problem(err)
		})
	huma.Register(h, op("delete-user", del, "/users/{user}", "Delete a user; 30 days to restore", "users"),
		func(ctx context.Context, in *struct {
			WhoInput
			IfMatch string `header:"If-Match" maxLength:"8192"`
		}) (*none, error) {
			yes := true
			_, err := b.PatchUser(ctx, by(ctx), in.Who, in.IfMatch, UserPatch{Deleted: &yes})
			return nil, problem(err)
		})
	huma.Register(h, op("where", get, "/users/{user}/where", "Where a user can be reached", "users"),
		func(ctx context.Context, in *WhoInput) (*body[Location], error) {
			l, err := b.Where(ctx, in.Who)
			return &body[Location]{l}, problem(err)
		})

	huma.Register(h, op("list-messages", get, "/users/{user}/messages", "Voicemail of a user", "voicemail"),
		func(ctx context.Context, in *WhoInput) (*body[[]Message], error) {
			ms, err := b.Messages(ctx, in.Who)
			return &body[[]Message]{ms}, problem(err)
		})
	huma.Register(h, audioOperation(), func(ctx context.Context, in *MessageInput) (*huma.StreamResponse, error) {
		id, err := site.ParseRecordID(in.ID)
		if err != nil {
			return nil, problem(Invalid(err.Error(), "list the messages to see their ids"))
		}
		r, err := b.Audio(ctx, in.Who, id)
		if err != nil {
			return nil, problem(err)
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			defer r.Close()
			ctx.SetHeader("Content-Type", "audio/wav")
			_, _ = io.Copy(ctx.BodyWriter(), r)
		}}, nil
	})
	huma.Register(h, op("move-message", patch, "/users/{user}/messages/{id}", "Save, restore or trash a message", "voicemail"),
		func(ctx context.Context, in *struct {
			MessageInput
			Body struct {
				Folder string `json:"folder" enum:"inbox,saved,trash"`
			}
		}) (*none, error) {
			return nil, problem(moveMessage(ctx, b, in.Who, in.ID, in.Body.Folder))
		})
	huma.Register(h, op("delete-message", del, "/users/{user}/messages/{id}", "Put a message in the trash", "voicemail"),
		func(ctx context.Context, in *MessageInput) (*none, error) {
			return nil, problem(moveMessage(ctx, b, in.Who, in.ID, "trash"))
		})

	registerSite(h, b)
	registerShop(h, b.Shop())

	huma.Register(h, op("list-invites", get, "/invites", "Invites of this site", "joining"),
		func(ctx context.Context, _ *none) (*body[[]Invite], error) {
			is, err := b.Invites(ctx)
			return &body[[]Invite]{is}, problem(err)
		})
	invite := op("create-invite", post, "/invites", "Make a token that admits one box, once", "joining")
	invite.DefaultStatus = http.StatusCreated
	huma.Register(h, invite, func(ctx context.Context, in *body[NewInvite]) (*body[Invite], error) {
		i, err := b.CreateInvite(ctx, by(ctx), in.Body)
		return &body[Invite]{i}, problem(err)
	})
	huma.Register(h, op("revoke-invite", del, "/invites/{id}", "Make a token worthless", "joining"),
		func(ctx context.Context, in *struct {
			ID string `path:"id" maxLength:"16" minLength:"16"`
		}) (*none, error) {
			id, err := site.ParseRecordID(in.ID)
			if err != nil {
				return nil, problem(Invalid(err.Error(), "list the invites to see their ids"))
			}
			return nil, problem(b.RevokeInvite(ctx, by(ctx), id))
		})
	huma.Register(h, op("list-pending", get, "/pending", "Boxes on this LAN that want to join", "joining"),
		func(ctx context.Context, _ *none) (*body[[]Pending], error) {
			ps, err := b.Pending(ctx)
			return &body[[]Pending]{ps}, problem(err)
		})
	huma.Register(h, op("approve", post, "/pending/approve", "Admit the box that shows this code", "joining"),
		func(ctx context.Context, in *body[Approval]) (*body[NodeStatus], error) {
			n, err := b.Approve(ctx, by(ctx), in.Body)
			return &body[NodeStatus]{n}, problem(err)
		})

	registerChanges(h, b)
	registerEvents(h, b)

	huma.Register(h, op("mesh-bytes", get, "/mesh/bytes", "What the mesh sent and received", "mesh"),
		func(ctx context.Context, in *struct {
			Over string `query:"over" doc:"Go duration to watch; default: since the start" maxLength:"16"`
		}) (*body[Bytes], error) {
			d := time.Duration(0)
			if in.Over != "" {
				var err error
				if d, err = time.ParseDuration(in.Over); err != nil || d < 0 || d > time.Hour {
					return nil, problem(Invalid(fmt.Sprintf("over=%q is not a duration up to 1h", in.Over), "write it like 10s or 5m"))
				}
			}
			n, err := b.Bytes(ctx, d)
			return &body[Bytes]{n}, problem(err)
		})
	huma.Register(h, op("test-route", get, "/route", "Where a call would go, step by step, without making it", "calls"),
		func(ctx context.Context, in *struct {
			From string `query:"from" required:"true" maxLength:"120"`
			To   string `query:"to" required:"true" maxLength:"256"`
		}) (*body[RouteTest], error) {
			r, err := b.RouteTest(ctx, in.From, in.To)
			return &body[RouteTest]{r}, problem(err)
		})
	huma.Register(h, op("list-calls", get, "/calls", "Calls in progress and lately ended", "calls"),
		func(ctx context.Context, in *struct {
			Since string `query:"since" doc:"Go duration; also calls that ended within it" maxLength:"16"`
		}) (*body[[]Call], error) {
			d, err := time.ParseDuration(in.Since)
			if in.Since != "" && err != nil {
				return nil, problem(Invalid(fmt.Sprintf("since=%q is not a duration", in.Since), "write it like 10m or 2h"))
			}
			cs, err := b.Calls(ctx, d)
			return &body[[]Call]{cs}, problem(err)
		})
}

func audioOperation() huma.Operation {
	o := op("get-audio", http.MethodGet, "/users/{user}/messages/{id}/audio", "A message's audio, fetched from another site if need be", "voicemail")
	o.Responses = map[string]*huma.Response{"200": {
		Description: "A WAV file",
		Content:     map[string]*huma.MediaType{"audio/wav": {Schema: &huma.Schema{Type: "string", Format: "binary"}}},
	}}
	return o
}

func moveMessage(ctx context.Context, b Backend, who, text, folder string) error {
	id, err := site.ParseRecordID(text)
	if err != nil {
		return Invalid(err.Error(), "list the messages to see their ids")
	}
	return b.MoveMessage(ctx, by(ctx), who, id, folder)
}

func consoleOnly(ctx context.Context) error {
	if by(ctx) != console {
		return &Error{http.StatusForbidden, "the root key is not shown over the network", "run \"ccnode recovery\" on the box itself"}
	}
	return nil
}
