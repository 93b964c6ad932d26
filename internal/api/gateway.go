package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// A GatewaySheet is what to type into the page of a gateway.
type GatewaySheet struct {
	Model string `json:"model"`
	Text  string `json:"text"`
}

// Gateways is a Backend that knows how gateways are set up.
type Gateways interface {
	GatewaySheet(ctx context.Context, trunk, model string) (GatewaySheet, error)
}

func registerGateways(h huma.API, b Backend) {
	g, ok := b.(Gateways)
	if !ok {
		return
	}
	type input struct {
		RecordInput
		Model string `query:"model" required:"true" enum:"ht813,yeastar-tg" doc:"ht813: analogue line (FXO); yeastar-tg: mobile network (LTE)"`
	}
	huma.Register(h, op("trunk-settings", http.MethodGet, "/trunks/{record}/settings", "What to type into a gateway's own page, for this line", "trunks"),
		func(ctx context.Context, in *input) (*body[GatewaySheet], error) {
			s, err := g.GatewaySheet(ctx, in.Who, in.Model)
			return &body[GatewaySheet]{s}, problem(err)
		})
}
