package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// ErrNoNode means that nobody listens where the node should be.
var ErrNoNode = errors.New("no node answers")

// Client speaks /api/v1 over a node's unix socket, or over HTTPS with a token.
type Client struct {
	// At is the code of the site whose answer is wanted; "" is the node's own.
	At string

	base  string
	token string
	http  *http.Client
	where string
}

// NewClient takes "unix:/path/to/api.sock" or an http(s) URL. token may be empty for a socket: then it is the console that asks.
func NewClient(addr, token string, hc *http.Client) (*Client, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return &Client{base: "http://node", token: token, where: path, http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			}}}}, nil
	}
	u, err := url.Parse(addr)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%q is not an address of a node: write unix:/path/api.sock or https://host:port", addr)
	}
	if hc == nil {
		hc = http.DefaultClient
	}
	return &Client{base: strings.TrimRight(addr, "/"), token: token, http: hc, where: addr}, nil
}

// Do sends one request. in is encoded as JSON when not nil; out is decoded when
// not nil. A refusal of the node comes back as *Error.
func (c *Client) Do(ctx context.Context, method, path string, in, out any, etag string) error {
	r, err := c.send(ctx, method, path, in, etag)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Page is Do for a GET of a list; next asks for what follows, "" if nothing does.
func (c *Client) Page(ctx context.Context, path string, out any) (next string, err error) {
	r, err := c.send(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		return "", fmt.Errorf("read the answer of GET %s: %w", path, err)
	}
	return r.Header.Get("Ccnode-Next"), nil
}

// Stream sends a GET and returns the body; the caller closes it.
func (c *Client) Stream(ctx context.Context, path string) (io.ReadCloser, error) {
	r, err := c.send(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return nil, err
	}
	return r.Body, nil
}

// Put sends bytes as they are.
func (c *Client) Put(ctx context.Context, path string, body *bytes.Reader) error {
	r, err := c.send(ctx, http.MethodPut, path, body, "")
	if err != nil {
		return err
	}
	return r.Body.Close()
}

func (c *Client) send(ctx context.Context, method, path string, in any, etag string) (*http.Response, error) {
	var rd io.Reader
	kind := "application/json"
	if raw, ok := in.(*bytes.Reader); ok {
		rd, kind = raw, "application/octet-stream"
	} else if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/"+Version+path, rd)
	if err != nil {
		return nil, err
	}
	if c.At != "" {
		q := req.URL.Query()
		q.Set("site", c.At)
		req.URL.RawQuery = q.Encode()
	}
	if in != nil {
		req.Header.Set("Content-Type", kind)
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	r, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("no permission for %s; run as the user the node runs as, or as root", c.where)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w at %s; start one with \"ccnode up\", or say where it is with --api or --data", ErrNoNode, c.where)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return nil, fmt.Errorf("%s cannot be verified: %w; give its certificate with --fingerprint, as \"ccnode status\" shows it there", c.where, err)
	case dialling(err):
		return nil, fmt.Errorf("%w at %s (%w); is it up, and is the address right? --api or --data name another", ErrNoNode, c.where, err)
	case err != nil:
		return nil, fmt.Errorf("ask the node at %s: %w", c.where, err)
	}
	if r.StatusCode < 300 {
		return r, nil
	}
	defer r.Body.Close()
	var p struct {
		Title, Detail string
		Errors        []struct {
			Message, Location string
			Value             any
		}
	}
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	_ = json.Unmarshal(b, &p)
	what := p.Detail
	for _, e := range p.Errors {
		what += fmt.Sprintf("; %s: %s", e.Location, e.Message)
		// What a person typed wrong is worth showing, unless it is a secret or all of it.
		if v, ok := e.Value.(string); ok && !strings.Contains(e.Location, "password") && !strings.Contains(e.Location, "pin") {
			what += fmt.Sprintf(", not %.80q", v)
		}
	}
	if what == "" {
		what = fmt.Sprintf("%s answered %s", c.where, r.Status)
	}
	return nil, &Error{Status: r.StatusCode, What: what}
}

// dialling says that the connection was never made.
func dialling(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
