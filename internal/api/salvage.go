package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"carrierclass.net/ccnode/internal/site"
)

// MaxRecording is the longest recording taken from a salvaged disk, in bytes:
// half an hour of telephone sound.
const MaxRecording = 16 << 20

// SalvageBatch is a part of what was read from a dead box's disk.
type SalvageBatch struct {
	Fleet   string   `json:"fleet,omitempty" maxLength:"64" doc:"Id of the fleet that the disk belonged to, hex, if it could be read"`
	Disk    string   `json:"disk" maxLength:"200" doc:"Where it came from, for whoever decides"`
	DryRun  bool     `json:"dryRun,omitempty" doc:"Only tell what is new"`
	Changes [][]byte `json:"changes" maxItems:"200" doc:"Signed changes, base64"`
}

// SalvagedChange is what this node knows of one of them.
type SalvagedChange struct {
	ID     string    `json:"id"`
	State  string    `json:"state" enum:"new,known,covered,held,forged,damaged" doc:"new: nobody here has it, it is held for a person to accept. covered: something here was written by somebody who had seen it. forged: its signature is wrong"`
	Scope  string    `json:"scope,omitempty"`
	Sure   bool      `json:"sure" doc:"Its scope is kept here; if not, its site may have it"`
	Node   string    `json:"node,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Writes []string  `json:"writes,omitempty" doc:"What it says, in words; secrets are never shown"`
}

// Salvaged is what a person learns of a disk, from the program that read it.
type Salvaged struct {
	Disk       string           `json:"disk"`
	DryRun     bool             `json:"dryRun"`
	Read       int              `json:"read"`    // changes that could be read
	Known      int              `json:"known"`   // the fleet has them
	Covered    int              `json:"covered"` // written over since, by somebody who had seen them
	Forged     int              `json:"forged"`  // not signed by whom they name
	New        []SalvagedChange `json:"new"`
	Held       []SalvagedChange `json:"held"`       // taken before, still waiting
	Recordings []string         `json:"recordings"` // that were not here
	Damaged    SalvageDamage    `json:"damaged"`
}

// SalvageDamage counts what could not be taken from a disk.
type SalvageDamage struct {
	Places     int `json:"places"`     // of the store, that could not be read
	Recordings int `json:"recordings"` // that are not whole
	Unfinished int `json:"unfinished"` // recordings that were being made
	TooLong    int `json:"tooLong"`    // recordings longer than MaxRecording
}

// SalvageAccept lets held changes of a salvaged disk in.
type SalvageAccept struct {
	IDs []string `json:"ids,omitempty" maxItems:"1000"`
	All bool     `json:"all,omitempty" doc:"All that wait, but for those of trust: who admits or shuts out boxes is decided one by one"`
}

// SalvageVerdict is what became of one of them.
type SalvageVerdict struct {
	ID      string   `json:"id"`
	Outcome string   `json:"outcome" enum:"accepted,held,refused,left"`
	Reason  string   `json:"reason,omitempty"`
	Writes  []string `json:"writes,omitempty"`
}

// SalvageRefs names recordings.
type SalvageRefs struct {
	Refs []string `json:"refs" maxItems:"1000"`
}

// Salvage is a Backend that takes what was on the disk of a dead box.
type Salvage interface {
	// SalvageChanges holds the new ones for a person.
	SalvageChanges(ctx context.Context, b SalvageBatch) ([]SalvagedChange, error)
	// SalvageMissing tells which recordings are not here.
	SalvageMissing(ctx context.Context, refs []string) ([]string, error)
	SalvageRecording(ctx context.Context, ref site.BlobRef, sealed []byte) error
	SalvageAccept(ctx context.Context, by string, a SalvageAccept) ([]SalvageVerdict, error)
}

// recordingPath is the one path whose requests may be large.
const recordingPath = "/salvage/recordings/"

func bodyLimit(path string) int64 {
	if strings.HasPrefix(path, "/api/"+Version+recordingPath) {
		return MaxRecording
	}
	return 1 << 20
}

func registerSalvage(h huma.API, b Backend) {
	s, ok := b.(Salvage)
	if !ok {
		return
	}
	huma.Register(h, op("salvage-changes", http.MethodPost, "/salvage/changes", "Take changes from the disk of a dead box; the new ones are held", "salvage"),
		func(ctx context.Context, in *body[SalvageBatch]) (*body[[]SalvagedChange], error) {
			out, err := s.SalvageChanges(ctx, in.Body)
			return &body[[]SalvagedChange]{out}, problem(err)
		})
	huma.Register(h, op("salvage-accept", http.MethodPost, "/salvage/accept", "Let held changes of a salvaged disk in", "salvage"),
		func(ctx context.Context, in *body[SalvageAccept]) (*body[[]SalvageVerdict], error) {
			out, err := s.SalvageAccept(ctx, by(ctx), in.Body)
			return &body[[]SalvageVerdict]{out}, problem(err)
		})
	huma.Register(h, op("salvage-missing", http.MethodPost, "/salvage/missing", "Which of these recordings are not here", "salvage"),
		func(ctx context.Context, in *body[SalvageRefs]) (*body[SalvageRefs], error) {
			out, err := s.SalvageMissing(ctx, in.Body.Refs)
			return &body[SalvageRefs]{SalvageRefs{out}}, problem(err)
		})
	put := op("salvage-recording", http.MethodPut, recordingPath+"{ref}", "Store a recording from the disk of a dead box, sealed as it was", "salvage")
	put.MaxBodyBytes = MaxRecording
	put.BodyReadTimeout = time.Minute
	huma.Register(h, put, func(ctx context.Context, in *struct {
		Ref     string `path:"ref" maxLength:"80" doc:"Its name, as its file had it"`
		RawBody []byte `contentType:"application/octet-stream"`
	}) (*none, error) {
		var ref site.BlobRef
		if err := ref.UnmarshalText([]byte(in.Ref)); err != nil {
			return nil, problem(Invalid(err.Error(), "a recording is named by the SHA-256 of its bytes"))
		}
		return nil, problem(s.SalvageRecording(ctx, ref, in.RawBody))
	})
}
