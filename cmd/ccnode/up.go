package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/node"
)

func upCommand(s *settings) *cobra.Command {
	var (
		cfg    config.Config
		listen []string
		media  string
		level  string
		ntp    bool
	)
	c := &cobra.Command{
		Use: "up", Short: "Start this box: found a fleet, join one, or go on with what is on disk",
		Example: "  ccnode up                          # an empty box founds a fleet of its own\n" +
			"  ccnode up --join TOKEN             # join with a token from \"ccnode invite create\"\n" +
			"  ccnode up --join lan               # ask the neighbours on the LAN; a person approves there",
		Args: args(0, 0, "nothing more"),
	}
	f := c.Flags()
	f.StringVar(&cfg.Join, "join", "", "a token, or lan")
	f.StringVar(&cfg.Fleet, "new-fleet", "", "name of the fleet to found")
	f.StringVar(&cfg.Domain, "domain", "", "SIP domain of the fleet to found, such as shops.example")
	f.StringVar(&cfg.SiteCode, "site", "", "code of the first site, such as the store number (default 0001)")
	f.StringVar(&cfg.SiteName, "site-name", "", "name of the first site")
	f.IntVar(&cfg.ExtLen, "extension-digits", 0, "digits of an extension of the first site (default 3)")
	f.StringVar(&cfg.Name, "name", "", "this box's name (default the host's)")
	f.StringSliceVar(&listen, "listen", nil, "addresses phones and nodes reach this box at (default those of the LAN)")
	f.IntVar(&cfg.SIPPort, "sip-port", 0, "UDP and TCP port for phones (default 5060)")
	f.IntVar(&cfg.MeshPort, "mesh-port", 0, "TCP port for other nodes (default 5870)")
	f.StringVar(&media, "media-ports", "", "UDP ports for speech (default 30000-30999)")
	f.StringVar(&cfg.APIListen, "api-listen", "", "HTTPS address of the interface, or off (default :8443)")
	f.StringVar(&cfg.Advertise, "advertise", "", "address other sites reach this box at, if a router forwards to it")
	f.BoolVar(&cfg.AdvertiseOnly, "advertise-only", false, "the site's other box, too, reaches this one only at --advertise")
	f.BoolVar(&cfg.BehindNAT, "behind-nat", false, "no router forwards to this box: stay reachable through a relay of the fleet")
	f.DurationVar(&cfg.KeepFirst, "keep-alive", 0, "with --behind-nat: the first pause between two keep-alives; the longest that works is found (default 2m)")
	f.BoolVar(&cfg.NoMulticast, "no-mdns", false, "neither announce nor look for neighbours")
	f.IntVar(&cfg.PhoneHTTP, "provision-http-port", 0, "TCP port where phones begin to fetch their settings (default 8086)")
	f.IntVar(&cfg.PhoneHTTPS, "provision-https-port", 0, "TCP port where phones fetch the rest (default 8446); after secrets were rotated, the next one, too")
	f.BoolVar(&ntp, "ntp", true, "tell phones the time, on UDP port 123")
	f.IntVar(&cfg.MaxCalls, "max-calls", 0, "calls at once (default 200)")
	f.IntVar(&cfg.RecordingsKbit, "recordings-rate", 0, "kbit/s at most in which recordings are sent to a box of another site (default what the line carries beside calls)")
	f.DurationVar(&cfg.Expires, "expires", 0, "longest registration granted to a phone (default 2m)")
	f.StringVar(&level, "log", "info", "debug, info, warn or error")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg.Data, cfg.NoNTP = s.data, !ntp
		for _, l := range listen {
			ip, err := netip.ParseAddr(l)
			if err != nil {
				return usageError{fmt.Errorf("--listen %q: use an IP address of this box", l)}
			}
			cfg.Listen = append(cfg.Listen, ip)
		}
		if media != "" {
			p, err := config.ParsePorts(media)
			if err != nil {
				return usageError{err}
			}
			cfg.MediaPorts = p
		}
		var lv slog.Level
		if err := lv.UnmarshalText([]byte(level)); err != nil {
			return usageError{fmt.Errorf("--log %q: use debug, info, warn or error", level)}
		}
		if err := cfg.Defaults(); err != nil {
			return err
		}
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))
		return up(cmd.Context(), cfg, log)
	}
	return c
}

// up runs the node until ctx ends, and tells the person in front of it what to do next.
func up(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	tctx, stop := context.WithCancel(ctx)
	defer stop()
	go thrift(tctx) // ends with stop
	return node.Run(ctx, node.Options{
		Config: cfg, Version: version, Log: log,
		Tell: func(lines ...string) { fmt.Println(strings.Join(lines, "\n")) },
	})
}

// pinned talks HTTPS to a node whose certificate has this SHA-256 fingerprint;
// without one, to nodes whose certificate the system's authorities vouch for.
// The token never goes to a node that was not verified.
func pinned(fingerprint string) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if fingerprint != "" {
		want, err := hex.DecodeString(strings.ReplaceAll(fingerprint, ":", ""))
		if err != nil || len(want) != sha256.Size {
			return nil, usageError{fmt.Errorf("--fingerprint %q: use the 64 hex digits \"ccnode status\" shows on that node", fingerprint)}
		}
		conf.InsecureSkipVerify = true // replaced by VerifyConnection, which compares the very certificate
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			got := sha256.Sum256(cs.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return fmt.Errorf("the node's certificate is %x, not the one in --fingerprint; somebody may be in between", got)
			}
			return nil
		}
	}
	return &http.Client{Timeout: 2 * time.Hour, Transport: &http.Transport{
		TLSClientConfig: conf,
		DialContext:     (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}, nil
}
