package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/demo"
)

func demoCommand() *cobra.Command {
	var hold, keep bool
	c := &cobra.Command{
		Use: "demo", Short: "Three shops on this machine: calls, a cut WAN, a heal, nothing lost",
		Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			dir, err := os.MkdirTemp("", "ccnode-demo-")
			if err != nil {
				return fmt.Errorf("make room for the demo: %w", err)
			}
			if keep {
				fmt.Println("data folders stay in", dir)
			} else {
				defer os.RemoveAll(dir)
			}
			return demo.Run(cmd.Context(), demo.Options{Program: program, Dir: dir, Out: os.Stdout, Hold: hold, Keep: keep})
		},
	}
	c.Flags().BoolVar(&hold, "hold", false, "keep the fleet up afterwards, with addresses and passwords to try")
	c.Flags().BoolVar(&keep, "keep", false, "keep the data folders")
	return c
}
