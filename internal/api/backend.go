package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Backend is the node as the API sees it; internal/node implements it. Its
// methods answer from this node, except where the doc says that another is asked.
type Backend interface {
	Status(ctx context.Context) Status

	// Users finds users; next is After of those that follow, "" if none do.
	Users(ctx context.Context, q UserSearch) (us []User, next string, err error)
	User(ctx context.Context, who string) (User, error) // number, extension, name or id
	CreateUser(ctx context.Context, by string, n NewUser) (User, error)
	PatchUser(ctx context.Context, by, who, etag string, p UserPatch) (User, error)
	Where(ctx context.Context, who string) (Location, error)

	// Site is the site of this node; PatchSite changes how its phones dial.
	Site(ctx context.Context) (SiteSettings, error)
	PatchSite(ctx context.Context, by string, p SitePatch) (SiteSettings, error)

	// Shop is what an administrator keeps beside users and boxes.
	Shop() Shop

	Invites(ctx context.Context) ([]Invite, error)
	CreateInvite(ctx context.Context, by string, n NewInvite) (Invite, error)
	RevokeInvite(ctx context.Context, by string, id site.RecordID) error

	Pending(ctx context.Context) ([]Pending, error)
	Approve(ctx context.Context, by string, a Approval) (NodeStatus, error)

	Messages(ctx context.Context, who string) ([]Message, error)
	Audio(ctx context.Context, who string, id site.RecordID) (io.ReadCloser, error)
	MoveMessage(ctx context.Context, by, who string, id site.RecordID, folder string) error

	Changes
	// Follow tells what happens here, after the event of that number (0: from now).
	Follow(ctx context.Context, after uint64) (Feed, error)

	Bytes(ctx context.Context, over time.Duration) (Bytes, error)
	RouteTest(ctx context.Context, from, to string) (RouteTest, error)
	Calls(ctx context.Context, since time.Duration) ([]Call, error)
	// EmergencyTest says how an emergency call from somebody would go now;
	// nothing is dialled.
	EmergencyTest(ctx context.Context, from string) (EmergencyPlan, error)

	// Recovery returns the root key's words while this box still has them;
	// ConfirmRecovery makes it forget them. Both are for the console only.
	Recovery(ctx context.Context) (Recovery, error)
	ConfirmRecovery(ctx context.Context, first, last string) error

	// Recover makes this box an issuer of the fleet; for the console only.
	Recover(ctx context.Context, by string, words []string) error

	// RevokeNode shuts a box out. keep names those of the boxes it admitted that
	// stay, or is "all" or "none"; empty is refused if there are any.
	RevokeNode(ctx context.Context, by, node string, keep []string) error
	// RaiseNode gives a box more rights.
	RaiseNode(ctx context.Context, by, node string, r NodeRights) error
	// NodeSecrets is what a box, revoked or not, could open of the sites whose
	// state is held here.
	NodeSecrets(ctx context.Context, node string) (NodeSecrets, error)
	// RotateSecrets replaces what a box that is no member any more could open
	// of the own site.
	RotateSecrets(ctx context.Context, by, node string) (RotatedSecrets, error)
	// Check tries to reach every peer now ("check now" is a purpose).
	Check(ctx context.Context) error
}

// Error is a refusal that says what to do.
type Error struct {
	Status int    // HTTP status
	What   string // what went wrong, with the thing it went wrong with
	Do     string // what to do about it
}

func (e *Error) Error() string {
	if e.Do == "" {
		return e.What
	}
	return e.What + "; " + e.Do
}

// NotFound, Invalid and Conflict are the usual refusals.
func NotFound(what, do string) error { return &Error{http.StatusNotFound, what, do} }
func Invalid(what, do string) error  { return &Error{http.StatusUnprocessableEntity, what, do} }
func Conflict(what, do string) error { return &Error{http.StatusConflict, what, do} }
func Unavailable(what, do string) error {
	return &Error{http.StatusServiceUnavailable, what, do}
}
