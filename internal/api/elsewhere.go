package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"carrierclass.net/ccnode/internal/site"
)

// Elsewhere is a Backend that puts an administrator's request to another site:
// any node answers any question, and a change is made by whose it is.
type Elsewhere interface {
	// SiteByCode finds a site; here says that it is this box's own.
	SiteByCode(code string) (id site.ID, here bool, err error)
	// Forward asks a box of that site, for the session in ctx. The answer is read
	// whole; its Body needs no Close.
	Forward(ctx context.Context, at site.ID, r *http.Request) (*http.Response, error)
}

// AsSession marks a request as an administrator's of another box, whose session
// was checked; it is not passed on again.
func AsSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(context.WithValue(ctx, sessionKey{}, s), forwardedKey{}, true)
}

type forwardedKey struct{}

// farTags are of what can be asked of another site.
var farTags = []string{"calls", "merges", "phones", "shop", "trunks", "users", "voicemail"}

func mayForward(o *huma.Operation) bool {
	return o.OperationID == "status" || slices.ContainsFunc(o.Tags, func(t string) bool { return slices.Contains(farTags, t) })
}

// farParam documents ?site= where it counts.
func farParam(o huma.Operation) huma.Operation {
	if mayForward(&o) {
		o.Parameters = append(o.Parameters, &huma.Param{Name: "site", In: "query", Schema: &huma.Schema{Type: "string"},
			Description: "Code of the site whose answer is wanted, if it is not this box's own; for administrators who logged in"})
	}
	return o
}

// elsewhere answers a request that names another site. It is false if this box
// is meant.
func elsewhere(h huma.API, b Backend, ctx huma.Context) bool {
	code := ctx.Query("site")
	far, ok := b.(Elsewhere)
	if code == "" || !ok || ctx.Context().Value(forwardedKey{}) != nil {
		return false
	}
	at, here, err := far.SiteByCode(code)
	var answer *http.Response
	switch {
	case err == nil && here:
		return false
	case err != nil:
	case !mayForward(ctx.Operation()):
		err = Invalid(ctx.Operation().OperationID+" concerns the box that is asked", "name a node of that site with --api")
	case SessionOf(ctx.Context()) == nil:
		err = Denied("another site wants to know who asks", "log in as an administrator of it (ccnode login), or name a node of that site with --api")
	default:
		r, _ := humago.Unwrap(ctx)
		answer, err = far.Forward(ctx.Context(), at, r)
	}
	if err != nil {
		e := &Error{Status: http.StatusInternalServerError, What: err.Error()}
		if x, ok := problem(err).(huma.StatusError); ok {
			e = &Error{Status: x.GetStatus(), What: err.Error()}
		}
		_ = huma.WriteErr(h, ctx, e.Status, e.What)
		return true
	}
	defer answer.Body.Close()
	for _, k := range []string{"Content-Type", "ETag", "Content-Disposition", "Ccnode-Next"} {
		if v := answer.Header.Get(k); v != "" {
			ctx.SetHeader(k, v)
		}
	}
	ctx.SetHeader("Ccnode-Site", code)
	ctx.SetStatus(answer.StatusCode)
	_, _ = io.Copy(ctx.BodyWriter(), answer.Body)
	return true
}

// forwarded lets in what another box asks for an administrator.
func forwarded(h huma.API, ctx huma.Context, next func(huma.Context)) bool {
	s := SessionOf(ctx.Context())
	if ctx.Context().Value(forwardedKey{}) == nil || s == nil {
		return false
	}
	err := mayUse(s, ctx.Operation())
	if err == nil && !mayForward(ctx.Operation()) {
		err = fmt.Errorf("%s cannot be asked through another box", ctx.Operation().OperationID)
	}
	if err != nil {
		_ = huma.WriteErr(h, ctx, http.StatusForbidden, err.Error())
		return true
	}
	next(huma.WithValue(ctx, whoKey{}, s.Name))
	return true
}
