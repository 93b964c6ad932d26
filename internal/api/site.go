package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"carrierclass.net/ccnode/internal/site"
)

// SiteSettings is the site of the node that answers, and how its phones dial.
type SiteSettings struct {
	Code            string   `json:"code"`
	Name            string   `json:"name"`
	ExtensionDigits int      `json:"extensionDigits"`
	Access          string   `json:"access" doc:"Dialled before another site's code and extension"`
	Outside         string   `json:"outside" doc:"Dialled before an outside number; empty: nothing"`
	Country         string   `json:"country" doc:"Country code without +"`
	National        string   `json:"national" doc:"Before a national number"`
	Abroad          string   `json:"abroad" doc:"Before an international number"`
	Number          string   `json:"number,omitempty" doc:"E.164: other sites call it over a trunk of theirs when this one cannot be reached"`
	Emergency       []string `json:"emergency" doc:"Numbers that are never refused"`
	VisitorsFor     string   `json:"visitorsFor" doc:"How long another site may know a telephone of this one without asking again"`
	ThinLine        bool     `json:"thinLine" doc:"What other sites tell each other is not carried over its line"`
	AlsoAt          []string `json:"alsoAt" doc:"Codes of sites that keep this one's state beside its stand-in"`
}

// SitePatch changes the fields that are present.
type SitePatch struct {
	Name        *string   `json:"name,omitempty" maxLength:"80"`
	Access      *string   `json:"access,omitempty" pattern:"^[0-9]{1,3}$"`
	Outside     *string   `json:"outside,omitempty" pattern:"^[0-9]{0,2}$"`
	Country     *string   `json:"country,omitempty" pattern:"^([1-9][0-9]{0,3})?$"`
	National    *string   `json:"national,omitempty" pattern:"^[0-9]{0,3}$"`
	Abroad      *string   `json:"abroad,omitempty" pattern:"^[0-9]{0,5}$"`
	Number      *string   `json:"number,omitempty" maxLength:"16"`
	Emergency   *[]string `json:"emergency,omitempty" minItems:"1" maxItems:"20"`
	VisitorsFor *string   `json:"visitorsFor,omitempty" maxLength:"20" doc:"1m to 168h, such as 12h"`
	ThinLine    *bool     `json:"thinLine,omitempty" doc:"For a line of 64 kbit/s or so beside faster ones"`
	AlsoAt      *[]string `json:"alsoAt,omitempty" maxItems:"8" doc:"Codes; their boxes are given this site's keys, too"`
}

// An EmergencyPlan is how an emergency call would go now (calls without a
// password, a limit or a block, line after line).
type EmergencyPlan struct {
	From     string              `json:"from"`
	Numbers  []string            `json:"numbers" doc:"That are emergency calls here"`
	Location string              `json:"location,omitempty" doc:"Where people are told that the call comes from"`
	CallBack string              `json:"callBack,omitempty" doc:"Number that is shown, where the line allows it"`
	Lines    []EmergencyLine     `json:"lines" doc:"In the order in which they are tried"`
	Desk     string              `json:"desk,omitempty" doc:"Extension that is told"`
	Code     string              `json:"code" doc:"Dial it to make a test call by these lines"`
	Tested   *site.EmergencyTest `json:"tested,omitempty" doc:"Newest test call; absent: never"`
	Steps    []string            `json:"steps" doc:"All of that in words"`
	Wrong    []string            `json:"wrong" doc:"What should be put right, each with what to do"`
}

// EmergencyLine is one way out.
type EmergencyLine struct {
	Name       string `json:"name"`
	Via        string `json:"via" enum:"wan,lan"`
	Usable     bool   `json:"usable"`
	State      string `json:"state"`
	Shown      string `json:"shown,omitempty" doc:"Number that the other end sees and calls back"`
	TestNumber string `json:"testNumber,omitempty" doc:"What a test call dials"`
}

func registerSite(h huma.API, b Backend) {
	huma.Register(h, op("test-emergency", http.MethodGet, "/emergency", "How an emergency call would go now; nothing is dialled", "shop"), func(ctx context.Context, in *struct {
		From string `query:"from" required:"true" doc:"Who would call: number, extension or name" maxLength:"80"`
	}) (*body[EmergencyPlan], error) {
		p, err := b.EmergencyTest(ctx, in.From)
		return &body[EmergencyPlan]{p}, problem(err)
	})
	huma.Register(h, op("get-site", http.MethodGet, "/site", "This site, and how its phones dial", "shop"), func(ctx context.Context, _ *none) (*body[SiteSettings], error) {
		s, err := b.Site(ctx)
		return &body[SiteSettings]{s}, problem(err)
	})
	huma.Register(h, op("set-site", http.MethodPatch, "/site", "Change how its phones dial", "shop"), func(ctx context.Context, in *body[SitePatch]) (*body[SiteSettings], error) {
		s, err := b.PatchSite(ctx, by(ctx), in.Body)
		return &body[SiteSettings]{s}, problem(err)
	})
}
