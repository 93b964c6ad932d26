package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

// gatewayCommand adds what a gateway's own page wants to know of a trunk.
func gatewayCommand(s *settings, trunk *cobra.Command) *cobra.Command {
	var model string
	c := &cobra.Command{
		Use: "settings NAME", Short: "What to type into a gateway's own page, for this line", Args: args(1, 1, "a trunk"),
		Example: "  ccnode trunk settings fxo --model ht813",
		RunE: func(cmd *cobra.Command, a []string) error {
			v, err := ask[api.GatewaySheet](cmd, s, http.MethodGet, "/trunks/"+url.PathEscape(a[0])+"/settings?model="+url.QueryEscape(model), nil)
			if err != nil {
				return err
			}
			if s.output == "json" {
				return s.show(v, nil)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), v.Text)
			return err
		},
	}
	c.Flags().StringVar(&model, "model", "ht813", "ht813: analogue line; yeastar-tg: mobile network")
	trunk.AddCommand(c)
	return trunk
}
