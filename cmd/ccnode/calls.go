package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func pathEscape(s string) string { return url.PathEscape(s) }

func voicemailCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "voicemail", Short: "Messages of a user"}
	list := &cobra.Command{
		Use: "list USER", Short: "List a user's messages", Args: args(1, 1, "a number, name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ms, err := ask[[]api.Message](cmd, s, http.MethodGet, userPath(a[0])+"/messages", nil)
			if err != nil {
				return err
			}
			return s.show(ms, func(t *table) {
				t.row("ID", "FROM", "AT", "SECONDS", "STATE", "AUDIO", "LEFT AT")
				for _, m := range ms {
					state := m.Folder
					if m.Folder == "inbox" {
						state = map[bool]string{false: "new", true: "heard"}[m.Heard]
					}
					if m.CutOff {
						state += ", cut off"
					}
					t.row(m.ID, strings.TrimSpace(m.From+" "+m.FromName), m.At.Local().Format("2006-01-02 15:04:05"), fmt.Sprintf("%.1f", m.Seconds), state, m.Audio, dash(m.LeftAt))
				}
			})
		},
	}
	var out string
	play := &cobra.Command{
		Use: "play USER ID", Short: "Play a message, or write it to a file", Args: args(2, 2, "a user and a message id"),
		Example: "  ccnode voicemail play 201 ID --out message.wav\n  ccnode voicemail play 201 ID --out - | aplay",
		RunE: func(cmd *cobra.Command, a []string) error {
			cl, err := s.client()
			if err != nil {
				return err
			}
			r, err := cl.Stream(cmd.Context(), userPath(a[0])+"/messages/"+pathEscape(a[1])+"/audio")
			if err != nil {
				return err
			}
			defer r.Close()
			return playTo(cmd, r, out)
		},
	}
	play.Flags().StringVar(&out, "out", "", "WAV file to write, - for standard output (default: play it)")
	del := &cobra.Command{
		Use: "delete USER ID", Short: "Put a message in the trash; 30 days to restore", Args: args(2, 2, "a user and a message id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return s.plain(cmd, http.MethodDelete, userPath(a[0])+"/messages/"+pathEscape(a[1]), nil, "in the trash: "+a[1])
		},
	}
	restore := &cobra.Command{
		Use: "restore USER ID", Short: "Take a message out of the trash", Args: args(2, 2, "a user and a message id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := struct {
				Folder string `json:"folder"`
			}{"inbox"}
			return s.plain(cmd, http.MethodPatch, userPath(a[0])+"/messages/"+pathEscape(a[1]), in, "restored "+a[1])
		},
	}
	c.AddCommand(list, play, del, restore)
	return c
}

func playTo(cmd *cobra.Command, r io.Reader, out string) error {
	switch out {
	case "-":
		_, err := io.Copy(os.Stdout, r)
		return err
	case "":
		for _, p := range []string{"aplay", "afplay", "paplay", "play"} {
			path, err := exec.LookPath(p)
			if err != nil {
				continue
			}
			a := []string{"-q"}
			if p == "play" {
				a = []string{"-q", "-t", "wav", "-"}
			}
			player := exec.CommandContext(cmd.Context(), path, a...)
			player.Stdin, player.Stderr = r, os.Stderr
			return player.Run()
		}
		return errors.New("this machine has no sound player (aplay, play); write the message to a file with --out FILE.wav")
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", out, err)
	}
	return f.Close()
}

func routeCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "route", Short: "Where calls go"}
	c.AddCommand(&cobra.Command{
		Use: "test FROM TO", Short: "Show the decision for a call, step by step, without making it", Args: args(2, 2, "who calls and what is dialled"),
		RunE: func(cmd *cobra.Command, a []string) error {
			q := url.Values{"from": {a[0]}, "to": {a[1]}}
			r, err := ask[api.RouteTest](cmd, s, http.MethodGet, "/route?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			return s.show(r, func(t *table) {
				for _, l := range r.Steps {
					t.row(l)
				}
			})
		},
	})
	return c
}

func callsCommand(s *settings) *cobra.Command {
	var since string
	c := &cobra.Command{
		Use: "calls", Short: "Calls in progress and lately ended", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cs, err := ask[[]api.Call](cmd, s, http.MethodGet, "/calls?since="+url.QueryEscape(since), nil)
			if err != nil {
				return err
			}
			return s.show(cs, func(t *table) {
				t.row("SINCE", "FROM", "TO", "STATE", "SECONDS", "CAUSE", "CHAIN")
				for _, c := range cs {
					secs := "-"
					if c.Answered != nil {
						end := time.Now()
						if c.Ended != nil {
							end = *c.Ended
						}
						secs = fmt.Sprintf("%.0f", end.Sub(*c.Answered).Seconds())
					}
					state := c.State
					if c.Diverted != "" {
						state += ", " + c.Diverted
					}
					t.row(c.Since.Local().Format("15:04:05"), c.From, c.To, state, secs, dash(c.Cause), c.Chain)
				}
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "also calls that ended within this time, such as 1h")
	return c
}
