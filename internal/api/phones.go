package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Provisioning is how phones come by their settings, as the node gives it.
type Provisioning interface {
	// Open lets phones begin for d: those of macs, or all if there are none.
	Open(ctx context.Context, d time.Duration, macs []string) (PhoneWindow, error)
	Window(ctx context.Context) (PhoneWindow, error)
	Close(ctx context.Context) error
	Seen(ctx context.Context) ([]SeenPhone, error)
	// Resync asks registered phones to fetch their settings again: the one with
	// that MAC, name or id, or "all".
	Resync(ctx context.Context, who string) ([]Resynced, error)
	// Codes are what an installer types at the phone itself.
	Codes(ctx context.Context, by, who string) (PhoneCodes, error)
}

// PhoneWindow is the time in which phones may begin to fetch their settings,
// from either box of the site. Outside of it only phones that did so before get anything.
type PhoneWindow struct {
	Open   bool       `json:"open"`
	Until  *time.Time `json:"until,omitempty"`
	MACs   []string   `json:"macs,omitempty" doc:"Only these phones; absent: all that were adopted"`
	URLs   []string   `json:"urls" doc:"What to type into a phone that does not find this box by itself, or into DHCP option 66"`
	Shared bool       `json:"shared,omitempty" doc:"The site's other box has it open, too"`
	CA     string     `json:"ca" doc:"The certificate that phones of this site are to trust, PEM"`
}

type OpenWindow struct {
	Duration string   `json:"duration,omitempty" doc:"Go duration, default 15m, at most 1h" example:"15m" maxLength:"16"`
	MACs     []string `json:"macs,omitempty" doc:"Only these phones; default all that were adopted" maxItems:"200"`
}

// SeenPhone is a device that asked this box for its settings.
type SeenPhone struct {
	MAC     string     `json:"mac"`
	Vendor  string     `json:"vendor,omitempty" doc:"As it says"`
	Model   string     `json:"model,omitempty" doc:"As it says"`
	Version string     `json:"version,omitempty" doc:"As it says"`
	Kind    string     `json:"kind,omitempty" doc:"What to give as vendor when it is adopted, if that can be told"`
	Addr    string     `json:"addr"`
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
	Times   int        `json:"times"`
	Phone   string     `json:"phone,omitempty" doc:"Name of the phone, once it is adopted"`
	Trouble string     `json:"trouble,omitempty" doc:"Why it gets no settings"`
	Fetched *time.Time `json:"fetched,omitempty" doc:"When it was last given all its settings by this box"`
	Owed    bool       `json:"owed,omitempty" doc:"Its settings have changed since: a resync is owed"`
}

// Resynced is what came of asking one phone to fetch its settings again.
type Resynced struct {
	MAC    string `json:"mac"`
	Phone  string `json:"phone"`
	Asked  bool   `json:"asked" doc:"It said that it will"`
	Reason string `json:"reason,omitempty" doc:"Why not"`
}

// PhoneCodes open a phone's own page, and let handsets join a base.
type PhoneCodes struct {
	AdminUser     string `json:"adminUser"`
	AdminPassword string `json:"adminPassword"`
	DECT          string `json:"dect,omitempty" doc:"Four digits that a handset asks for when it joins the base"`
}

func registerPhones(h huma.API, p Provisioning) {
	if p == nil {
		return
	}
	const at = "/phones/window"
	open := op("open-phone-window", http.MethodPost, at, "Let phones begin to fetch their settings", "phones")
	open.DefaultStatus = http.StatusCreated
	huma.Register(h, open, func(ctx context.Context, in *body[OpenWindow]) (*body[PhoneWindow], error) {
		d := 15 * time.Minute
		if in.Body.Duration != "" {
			var err error
			if d, err = time.ParseDuration(in.Body.Duration); err != nil {
				return nil, problem(Invalid(fmt.Sprintf("duration %q cannot be read", in.Body.Duration), "write it like 15m"))
			}
		}
		w, err := p.Open(ctx, d, in.Body.MACs)
		return &body[PhoneWindow]{w}, problem(err)
	})
	huma.Register(h, op("get-phone-window", http.MethodGet, at, "Whether phones may begin", "phones"),
		func(ctx context.Context, _ *none) (*body[PhoneWindow], error) {
			w, err := p.Window(ctx)
			return &body[PhoneWindow]{w}, problem(err)
		})
	huma.Register(h, op("close-phone-window", http.MethodDelete, at, "No phone may begin any more", "phones"),
		func(ctx context.Context, _ *none) (*none, error) { return nil, problem(p.Close(ctx)) })
	huma.Register(h, op("seen-phones", http.MethodGet, "/phones/seen", "Devices that asked for settings, adopted or not", "phones"),
		func(ctx context.Context, _ *none) (*body[[]SeenPhone], error) {
			s, err := p.Seen(ctx)
			if s == nil {
				s = []SeenPhone{}
			}
			return &body[[]SeenPhone]{s}, problem(err)
		})
	huma.Register(h, op("resync-phone", http.MethodPost, "/phones/{record}/resync", "Ask a phone, or all, to fetch settings again", "phones"),
		func(ctx context.Context, in *RecordInput) (*body[[]Resynced], error) {
			r, err := p.Resync(ctx, in.Who)
			if r == nil {
				r = []Resynced{}
			}
			return &body[[]Resynced]{r}, problem(err)
		})
	huma.Register(h, op("phone-codes", http.MethodGet, "/phones/{record}/codes", "What an installer types at the phone itself", "phones"),
		func(ctx context.Context, in *RecordInput) (*body[PhoneCodes], error) {
			c, err := p.Codes(ctx, by(ctx), in.Who)
			return &body[PhoneCodes]{c}, problem(err)
		})
}
