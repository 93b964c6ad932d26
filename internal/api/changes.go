package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// History is what a box remembers of one record.
type History struct {
	Kind    string         `json:"kind"`
	Record  string         `json:"record" doc:"What it is, in words"`
	Since   time.Time      `json:"since" doc:"Since when this box remembers what it saw being overwritten; of before, some may be missing"`
	Changes []HistoryEntry `json:"changes" doc:"Newest first"`
}

// HistoryEntry is one change by one person.
type HistoryEntry struct {
	ID     string         `json:"id" doc:"For undo"`
	At     time.Time      `json:"at"`
	By     string         `json:"by" doc:"The person, or what wrote it"`
	Node   string         `json:"node" doc:"The box it was written at"`
	Site   string         `json:"site" doc:"Code of that box's site"`
	Fields []HistoryField `json:"fields"`
}

// HistoryField is one field of a change.
type HistoryField struct {
	Record string  `json:"record" doc:"What it is of, in words: the history of a user has the user's devices in it"`
	Field  string  `json:"field"`
	Old    *string `json:"old,omitempty" doc:"Absent: this box does not know what was there before. Secrets are never shown"`
	New    string  `json:"new"`
	State  string  `json:"state" enum:"in-force,beside,overwritten" doc:"beside: it is a side of an open merge, and another is in force"`
}

// Undo asks to undo a change.
type Undo struct {
	Yes bool `json:"yes,omitempty" doc:"Also over what somebody changed since"`
}

// Undone is what an undo wrote.
type Undone struct {
	Record string         `json:"record"`
	Fields []HistoryField `json:"fields" doc:"old is what was there, new what is there now"`
	Left   []string       `json:"left,omitempty" doc:"What was not brought back, and why"`
}

// Changes is what was written and by whom, as this node remembers it.
type Changes interface {
	Merges(ctx context.Context, closed bool) ([]Merge, error)
	KeepMerge(ctx context.Context, by, id, version string) error
	// History finds the record by kind (may be empty) and a number, name or id;
	// without both it tells the newest changes of all.
	History(ctx context.Context, kind, who string) (History, error)
	// Undo writes what was there before a change; yes: also over what somebody
	// changed since.
	Undo(ctx context.Context, by, change string, yes bool) (Undone, error)
}

func registerChanges(h huma.API, b Changes) {
	get, post := http.MethodGet, http.MethodPost
	huma.Register(h, op("list-merges", get, "/merges", "What two sides changed without seeing each other", "merges"),
		func(ctx context.Context, in *struct {
			Closed bool `query:"closed" doc:"Also those that were settled, as far as this box remembers"`
		}) (*body[[]Merge], error) {
			ms, err := b.Merges(ctx, in.Closed)
			return &body[[]Merge]{ms}, problem(err)
		})
	huma.Register(h, op("keep-merge", post, "/merges/{id}/keep", "Settle a merge by keeping one side, or both", "merges"),
		func(ctx context.Context, in *struct {
			ID   string `path:"id" maxLength:"256"`
			Body KeepMerge
		}) (*none, error) {
			return nil, problem(b.KeepMerge(ctx, by(ctx), in.ID, in.Body.Version))
		})
	huma.Register(h, op("history", get, "/history", "Who changed what of a record", "merges"),
		func(ctx context.Context, in *struct {
			Record string `query:"record" doc:"Number, extension, name or id; may be left out for shop, site and fleet. Without record and kind: the newest 100 changes of the site" maxLength:"120"`
			Kind   string `query:"kind" doc:"user, device, group, menu, trunk, number, hours, phone, shop, site, node, fleet, message; needed if the name is not enough" maxLength:"20"`
		}) (*body[History], error) {
			x, err := b.History(ctx, in.Kind, in.Record)
			return &body[History]{x}, problem(err)
		})
	huma.Register(h, op("undo", post, "/changes/{change}/undo", "Write again what was there before a change", "merges"),
		func(ctx context.Context, in *struct {
			Change string `path:"change" doc:"As its history shows it; at least 8 digits" maxLength:"64"`
			Body   Undo
		}) (*body[Undone], error) {
			x, err := b.Undo(ctx, by(ctx), in.Change, in.Body.Yes)
			return &body[Undone]{x}, problem(err)
		})
}
