package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func siteCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "site", Short: "This site, and how its phones dial"}
	rows := func(x api.SiteSettings) error {
		return s.show(x, func(t *table) {
			t.row("site", x.Code, x.Name)
			t.row("extensions", fmt.Sprintf("%d digits", x.ExtensionDigits))
			t.row("other sites", x.Access+" + code + extension")
			t.row("outside", dash(x.Outside))
			t.row("country", dash(x.Country))
			t.row("national", dash(x.National))
			t.row("abroad", dash(x.Abroad))
			t.row("number", dash(x.Number))
			t.row("emergency", strings.Join(x.Emergency, ", "))
			t.row("visitors", "other sites know its telephones for "+x.VisitorsFor)
			if x.ThinLine {
				t.row("line", "thin: what other sites tell each other does not go over it")
			}
			t.row("also kept at", dash(strings.Join(x.AlsoAt, ", ")))
		})
	}
	show := &cobra.Command{Use: "show", Short: "Show it", Args: args(0, 0, "nothing more"), RunE: func(cmd *cobra.Command, _ []string) error {
		x, err := ask[api.SiteSettings](cmd, s, http.MethodGet, "/site", nil)
		if err != nil {
			return err
		}
		return rows(x)
	}}
	set := &cobra.Command{Use: "set", Short: "Change it", Example: "  ccnode site set --country 33 --national 0 --abroad 00 --outside 0 --emergency 112,15,17,18",
		Args: args(0, 0, "flags only")}
	f := set.Flags()
	var p api.SitePatch
	texts := map[string]**string{"name": &p.Name, "access": &p.Access, "outside": &p.Outside, "country": &p.Country, "national": &p.National, "abroad": &p.Abroad, "number": &p.Number, "visitors-for": &p.VisitorsFor}
	values := map[string]*string{}
	for name, help := range map[string]string{"name": "name shown to people", "access": "dialled before another site's code and extension", "outside": "dialled before an outside number",
		"country": "country code without +", "national": "before a national number", "abroad": "before an international number",
		"number":       "public number: other sites call it when this one cannot be reached",
		"visitors-for": "how long another site may know a telephone of this one without asking again, such as 12h; one that is disabled works there that long if this site cannot be heard"} {
		values[name] = f.String(name, "", help)
	}
	emergency := f.StringSlice("emergency", nil, "numbers that are never refused, all of them")
	also := f.StringSlice("also-at", nil, "codes of sites that keep this one's state, and its keys, beside its stand-in; \"\" for none")
	thin := f.Bool("thin-line", false, "what other sites tell each other does not go over this site's line")
	set.RunE = func(cmd *cobra.Command, _ []string) error {
		any := false
		for name, v := range values {
			if f.Changed(name) {
				*texts[name], any = v, true
			}
		}
		if f.Changed("emergency") {
			p.Emergency, any = emergency, true
		}
		if f.Changed("thin-line") {
			p.ThinLine, any = thin, true
		}
		if f.Changed("also-at") {
			p.AlsoAt, any = also, true
		}
		if !any {
			return usageError{fmt.Errorf("nothing to change; see \"%s --help\"", cmd.CommandPath())}
		}
		x, err := ask[api.SiteSettings](cmd, s, http.MethodPatch, "/site", p)
		if err != nil {
			return err
		}
		return rows(x)
	}
	c.AddCommand(show, set)
	return c
}
