package provision

import (
	"bytes"
	"embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"
)

// A gateway is set up once, by hand, at its own page: what to type there is
// made from the trunk's record, so that nobody has to know both ends.

//go:embed gateways/*.tmpl
var gatewayFiles embed.FS

// Gateways are the models there are sheets for.
var Gateways = []string{"ht813", "yeastar-tg"}

// A Gateway says what a sheet is made for.
type Gateway struct {
	Trunk     string
	Boxes     []netip.AddrPort // SIP addresses of the shop's boxes, the first preferred
	Number    string           // of the line, digits
	Port      int              // where the gateway listens for SIP
	Country   string           // as people call it: a country code with +, "" unknown
	Emergency string
}

// Pair says that the shop has two boxes.
func (g Gateway) Pair() bool { return len(g.Boxes) > 1 }

var gatewaySheets = template.Must(template.New("").Funcs(template.FuncMap{
	"letter": func(i int) string { return string(rune('a' + i)) },
}).ParseFS(gatewayFiles, "gateways/*.tmpl"))

// Sheet is what to type into the gateway's page.
func (g Gateway) Sheet(model string) (string, error) {
	t := gatewaySheets.Lookup(model + ".tmpl")
	if t == nil {
		return "", fmt.Errorf("there is no sheet for a gateway %q; there are %s", model, strings.Join(Gateways, ", "))
	}
	if len(g.Boxes) == 0 || g.Number == "" {
		return "", fmt.Errorf("the sheet of %q needs the line's number (ccnode trunk set %s --number +33...) and the box's address", g.Trunk, g.Trunk)
	}
	if g.Country == "" {
		g.Country = "your country"
	}
	var out bytes.Buffer
	if err := t.Execute(&out, g); err != nil {
		return "", fmt.Errorf("sheet for %s: %w", model, err)
	}
	return out.String(), nil
}
