package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"carrierclass.net/ccnode/internal/site"
)

// Bulk is what a Backend offers that makes many users at once.
type Bulk interface {
	// CreateUsers makes users of this site, at most MaxUserRows. It answers every
	// row; what it says was made is on the disk.
	CreateUsers(ctx context.Context, by string, rows []UserRow) ([]UserRowResult, error)
}

// MaxUserRows is how many rows one request may have.
const MaxUserRows = 500

// A UserRow asks for one user of the site. Nothing about it is checked before its
// own turn: a bad row must not keep the others out.
type UserRow struct {
	Number   string `json:"number" doc:"Extension, or full number"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password,omitempty" doc:"Of the telephone; default: a strong one is made and shown once"`
	PIN      string `json:"pin,omitempty" doc:"Voicemail PIN, 4 to 12 digits"`
	E164     string `json:"e164,omitempty" doc:"Public number"`
}

// UserRows is the body of a bulk request.
type UserRows struct {
	Users []UserRow `json:"users" minItems:"1" maxItems:"500"`
}

// A UserRowResult says what became of the row of the same place.
type UserRowResult struct {
	ID       *site.RecordID `json:"id,omitempty"`
	Number   string         `json:"number,omitempty" doc:"In full; also the name that the telephone logs in with"`
	Realm    string         `json:"realm,omitempty"`
	Password string         `json:"password,omitempty" doc:"If the box made it"`
	Existed  bool           `json:"existed,omitempty" doc:"It was there with this name and public number; nothing was changed"`
	Status   int            `json:"status" doc:"201, 200 if it was there, or as a refusal of one user has it; from 500 on the row was not tried"`
	Error    string         `json:"error,omitempty" doc:"What is wrong with the row, and what to do"`
}

func registerBulk(h huma.API, b Backend) {
	k, ok := b.(Bulk)
	if !ok {
		return
	}
	huma.Register(h, op("create-users", http.MethodPost, "/users/bulk", "Create many users; send the same rows again if no answer comes", "users"),
		func(ctx context.Context, in *body[UserRows]) (*body[[]UserRowResult], error) {
			out, err := k.CreateUsers(ctx, by(ctx), in.Body.Users)
			return &body[[]UserRowResult]{out}, problem(err)
		})
}
