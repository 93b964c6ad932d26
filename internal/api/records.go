package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"carrierclass.net/ccnode/internal/site"
)

// Records is one kind of what an administrator keeps, as the node gives it:
// trunks, groups and so on (internal/site, records.go). who is a name or an id.
type Records[T any] interface {
	List(ctx context.Context) ([]T, error)
	Get(ctx context.Context, who string) (T, error)
	Create(ctx context.Context, by string, v T) (T, error)
	// Change lets fn alter what is there; etag is what the person had seen.
	Change(ctx context.Context, by, who, etag string, fn func(*T) error) (T, error)
}

// Shop is everything of that sort.
type Shop struct {
	Trunks  Records[site.Trunk]
	Numbers Records[site.Inbound]
	Groups  Records[site.Group]
	Menus   Records[site.Menu]
	Hours   Records[site.Hours]
	Phones  Records[site.Phone]
	Shop    Records[site.Shop]

	Provisioning Provisioning // nil: none
}

func registerShop(h huma.API, s Shop) {
	records(h, "trunks", "trunk", "Lines to the outside", s.Trunks)
	records(h, "numbers", "number", "Public numbers and where calls to them go", s.Numbers)
	records(h, "groups", "group", "Numbers that ring several users", s.Groups)
	records(h, "menus", "menu", "Numbers that answer and let the caller choose", s.Menus)
	records(h, "hours", "hours", "Opening hours and night switches", s.Hours)
	registerPhones(h, s.Provisioning)
	records(h, "phones", "phone", "Phones that fetch their settings here", s.Phones)
	records(h, "shop", "shop", "What holds for the whole site", s.Shop)
}

// RecordInput names a record in a path.
type RecordInput struct {
	Who string `path:"record" doc:"Name or id" maxLength:"120"`
}

func records[T any](h huma.API, path, one, what string, r Records[T]) {
	schema := h.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, one)
	// A patch lacks what it leaves alone, so that bodies are read here; the
	// document says what they are all the same.
	document := func(b *huma.RequestBody, what string) {
		b.Description, b.Required = what, true
		b.Content = map[string]*huma.MediaType{"application/json": {Schema: schema}}
	}
	at := "/" + path
	huma.Register(h, op("list-"+path, http.MethodGet, at, what, "shop"), func(ctx context.Context, _ *none) (*body[[]T], error) {
		list, err := r.List(ctx)
		if list == nil {
			list = []T{}
		}
		return &body[[]T]{list}, problem(err)
	})
	create := op("create-"+one, http.MethodPost, at, "Make a "+one, "shop")
	create.DefaultStatus, create.SkipValidateBody = http.StatusCreated, true // strict checks it
	huma.Register(h, create, func(ctx context.Context, in *struct {
		RawBody []byte `contentType:"application/json"`
	}) (*tagged[T], error) {
		var v T
		if err := strict(in.RawBody, &v); err != nil {
			return nil, problem(err)
		}
		v, err := r.Create(ctx, by(ctx), v)
		return &tagged[T]{etagOf(&v), v}, problem(err)
	})
	document(h.OpenAPI().Paths[create.Path].Post.RequestBody, "id and etag are given, not taken")
	at += "/{record}"
	huma.Register(h, op("get-"+one, http.MethodGet, at, "One "+one, "shop"), func(ctx context.Context, in *RecordInput) (*tagged[T], error) {
		v, err := r.Get(ctx, in.Who)
		return &tagged[T]{etagOf(&v), v}, problem(err)
	})
	set := op("set-"+one, http.MethodPatch, at, "Change a "+one, "shop")
	set.SkipValidateBody = true
	huma.Register(h, set,
		func(ctx context.Context, in *struct {
			RecordInput
			IfMatch string `header:"If-Match" doc:"ETag of the answer the person acted on; a stale edit is kept beside what it did not see" maxLength:"16384"`
			RawBody []byte `contentType:"application/json"`
		}) (*tagged[T], error) {
			v, err := r.Change(ctx, by(ctx), in.Who, in.IfMatch, func(v *T) error { return MergePatch(in.RawBody, v) })
			return &tagged[T]{etagOf(&v), v}, problem(err)
		})
	document(h.OpenAPI().Paths[set.Path].Patch.RequestBody, "RFC 7396: what is absent stays, null clears")
	huma.Register(h, op("delete-"+one, http.MethodDelete, at, "Delete a "+one, "shop"), func(ctx context.Context, in *struct {
		RecordInput
		IfMatch string `header:"If-Match" maxLength:"16384"`
	}) (*none, error) {
		_, err := r.Change(ctx, by(ctx), in.Who, in.IfMatch, func(v *T) error {
			any(v).(interface{ Record() *site.Head }).Record().Deleted = true
			return nil
		})
		return nil, problem(err)
	})
}

func etagOf[T any](v *T) string { return any(v).(interface{ Record() *site.Head }).Record().ETag }

// strict decodes one JSON value that has no field we do not know.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Invalid("the body cannot be read: "+err.Error(), "see /openapi.json for its fields")
	}
	if d.More() {
		return Invalid("the body goes on after its end", "send one JSON object")
	}
	return nil
}

// MergePatch changes v as RFC 7396 says. A secret that the patch does not name
// is empty in v, which leaves it as it is.
func MergePatch[T any](patch []byte, v *T) error {
	var p, have any
	if err := strict(patch, &p); err != nil {
		return err
	}
	if _, ok := p.(map[string]any); !ok {
		return Invalid("the body is no object", "send the fields to change")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if err := json.Unmarshal(b, &have); err != nil {
		return err
	}
	if b, err = json.Marshal(merge(have, p)); err != nil {
		return err
	}
	var out T
	if err := strict(b, &out); err != nil {
		return err
	}
	was, is := any(v).(interface{ Record() *site.Head }).Record(), any(&out).(interface{ Record() *site.Head }).Record()
	is.ID, is.ETag = was.ID, was.ETag
	*v = out
	return nil
}

func merge(have, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	h, ok := have.(map[string]any)
	if !ok {
		h = map[string]any{}
	}
	for k, x := range p {
		if x == nil {
			delete(h, k)
		} else {
			h[k] = merge(h[k], x)
		}
	}
	return h
}
