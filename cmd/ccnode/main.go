// Command ccnode is a branch telephone system: the node itself ("ccnode up"),
// and the command line that speaks to it over its REST interface.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "dev"

// Exit codes, for scripts.
const (
	exitOK       = 0
	exitRefused  = 1 // the node refused, or it failed
	exitUsage    = 2 // wrong words on the command line
	exitNotFound = 3 // no such user, invite, message …
	exitNoNode   = 4 // no node answers
)

// usageError marks mistakes on the command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(os.Stderr, "ccnode:", err)
	var (
		usage   usageError
		refused *api.Error
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused) && refused.Status == 404:
		return exitNotFound
	case errors.As(err, &refused):
		return exitRefused
	case errors.Is(err, api.ErrNoNode):
		return exitNoNode
	}
	return exitRefused
}

// settings are the flags every client command shares.
type settings struct {
	data   string
	api    string
	token  string
	output string
	at     string

	fingerprint string
}

func newRoot() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:           "ccnode",
		Short:         "A complete telephone system for one site, and a peer of all the others",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see \"%s --help\"", err, c.CommandPath())}
	})
	f := root.PersistentFlags()
	f.StringVar(&s.data, "data", os.Getenv("CCNODE_DATA"), "the node's data folder (default /var/lib/ccnode for root)")
	f.StringVar(&s.api, "api", os.Getenv("CCNODE_API"), "another node's interface: unix:PATH or https://HOST:8443")
	f.StringVar(&s.token, "token", os.Getenv("CCNODE_TOKEN"), "token for --api https://…")
	f.StringVar(&s.fingerprint, "fingerprint", os.Getenv("CCNODE_FINGERPRINT"), "SHA-256 of the certificate of --api https://…, as its status shows")
	f.StringVarP(&s.output, "output", "o", "table", "table or json")
	f.StringVar(&s.at, "at", "", "code of another site that is to answer; for administrators (ccnode login)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if s.output != "table" && s.output != "json" {
			return usageError{fmt.Errorf("-o %q: use table or json", s.output)}
		}
		return nil
	}
	root.AddCommand(upCommand(s), demoCommand(), statusCommand(s), userCommand(s), inviteCommand(s), pendingCommand(s),
		whereCommand(s), voicemailCommand(s), mergesCommand(s), historyCommand(s), undoCommand(s), eventsCommand(s), meshCommand(s), routeCommand(s), callsCommand(s),
		nodeCommand(s), heldCommand(s), secretsCommand(s), recoveryCommand(s), recoverCommand(s), siteCommand(s), emergencyCommand(s), doctorCommand(s))
	root.AddCommand(adminCommand(s))
	root.AddCommand(loginCommands(s)...)
	root.AddCommand(shopCommands(s)...)
	group(root)
	return root
}

// group makes a command without a verb of its own say what its verbs are.
func group(c *cobra.Command) {
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			near := ""
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				near = fmt.Sprintf("; did you mean %q?", s[0])
			}
			return usageError{fmt.Errorf("%q is not a command of %s%s; see \"%s --help\"", args[0], c.CommandPath(), near, c.CommandPath())}
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	for _, sub := range c.Commands() {
		group(sub)
	}
}

// client connects to the node the flags name.
func (s *settings) client() (*api.Client, error) {
	addr := s.api
	if addr == "" {
		data := s.data
		if data == "" {
			d, err := config.DefaultData()
			if err != nil {
				return nil, err
			}
			data = d
		}
		abs, err := filepath.Abs(data)
		if err != nil {
			return nil, err
		}
		addr = "unix:" + config.Socket(abs)
	}
	hc, err := pinned(s.fingerprint)
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(addr, s.token, hc)
	if err != nil {
		return nil, usageError{err}
	}
	c.At = s.at
	return c, nil
}

// ask puts one request to the node and reads its answer.
func ask[T any](cmd *cobra.Command, s *settings, method, path string, in any) (out T, err error) {
	cl, err := s.client()
	if err != nil {
		return out, err
	}
	err = cl.Do(cmd.Context(), method, path, in, &out, "")
	return out, err
}

// args checks their number and says what they are.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if len(a) < min || len(a) > max {
			return usageError{fmt.Errorf("%s needs %s; got %d words: %q", c.CommandPath(), what, len(a), a)}
		}
		if slices.Contains(a, "") {
			return usageError{fmt.Errorf("%s needs %s; got an empty word: %q", c.CommandPath(), what, a)}
		}
		return nil
	}
}
