// Package core is the method table of the node's signalling: it joins the Edge,
// the transaction layer and the rooms that serve a method, so that nobody
// outside sipcore has to know a SIP message.
//
// RFC 3261 §8.2.1 (method inspection), §11 (OPTIONS); RFC 6665 §4.2.1 (events).
package core

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Registrar serves REGISTER without a transaction; *registrar.Registrar is one.
type Registrar interface {
	Quick(req *sip.Request, f *edge.Flow) (rest func())
}

// Calls serves INVITE and everything inside a call; *b2bua.Server is one.
type Calls interface {
	Serve(tx *transaction.ServerTx) bool // false: not mine
	Ack(ack *sip.Request, f *edge.Flow)
	Stray(res *sip.Response, f *edge.Flow)
}

// Subscriptions serves SUBSCRIBE. It returns false for events it does not know.
type Subscriptions interface {
	ServeSubscribe(tx *transaction.ServerTx) bool
}

// Config joins the rooms. Edge, Registrar and Calls are needed.
type Config struct {
	Edge      *edge.Edge
	Registrar Registrar
	Calls     Calls
	Events    []string // event packages of the Subscriptions, for 489

	Emergency func(*sip.Request) bool // see transaction.Config
	Logger    *slog.Logger
	Now       func() time.Time
	Rand      io.Reader
}

// A Core hands each request to the room that serves it.
type Core struct {
	cfg    Config
	layer  *transaction.Layer
	events Subscriptions
}

// New makes a Core and its transaction layer.
func New(cfg Config) *Core {
	c := &Core{cfg: cfg}
	c.layer = transaction.New(transaction.Config{
		Edge: cfg.Edge, OnRequest: c.serve, OnAck: cfg.Calls.Ack, OnStray: cfg.Calls.Stray, Emergency: cfg.Emergency,
		Quick:  map[sip.RequestMethod]func(*sip.Request, *edge.Flow) func(){sip.REGISTER: cfg.Registrar.Quick},
		Logger: cfg.Logger, Now: cfg.Now, Rand: cfg.Rand,
	})
	return c
}

// Layer is what the rooms send requests with.
func (c *Core) Layer() *transaction.Layer { return c.layer }

// Use hands SUBSCRIBE to s; before Serve.
func (c *Core) Use(s Subscriptions) { c.events = s }

// Serve takes requests until ctx ends, and returns when no handler runs any more.
func (c *Core) Serve(ctx context.Context) error {
	err := c.cfg.Edge.Serve(ctx, c.layer)
	c.layer.Wait()
	return err
}

const methods = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, SUBSCRIBE, NOTIFY, INFO, MESSAGE, UPDATE"

// serve takes what is neither REGISTER nor ACK nor CANCEL.
func (c *Core) serve(tx *transaction.ServerTx) {
	req := tx.Request()
	if req.Method == sip.SUBSCRIBE && c.events != nil && c.events.ServeSubscribe(tx) || c.cfg.Calls.Serve(tx) {
		return
	}
	status, name, value := 405, "Allow", methods
	switch {
	case req.To().Params.Has("tag"):
		status, name = 481, "" // RFC 3261 §12.2.2: a dialog that is not here
	case req.Method == sip.OPTIONS:
		status = 200
	case req.Method == sip.SUBSCRIBE:
		status, name, value = 489, "Allow-Events", strings.Join(c.cfg.Events, ", ")
	case req.Method == sip.NOTIFY || req.Method == sip.BYE || req.Method == sip.UPDATE || req.Method == sip.INFO || req.Method == sip.PRACK:
		status, name = 481, ""
	}
	res := tx.Response(status, "")
	if name != "" {
		res.AppendHeader(sip.NewHeader(name, value))
	}
	if status == 200 {
		res.AppendHeader(sip.NewHeader("Accept", "application/sdp"))
		if len(c.cfg.Events) > 0 {
			res.AppendHeader(sip.NewHeader("Allow-Events", strings.Join(c.cfg.Events, ", ")))
		}
	}
	if err := tx.Respond(res); err != nil && c.cfg.Logger != nil {
		c.cfg.Logger.Debug("Response not sent", "status", status, "err", err)
	}
}

// AOR makes the function that registrar and subscriptions ask, from the
// canonical form of route (calls.md §1).
func AOR(canonical func(route.URI) site.AOR) func(*sip.Uri) site.AOR {
	return func(u *sip.Uri) site.AOR { return canonical(URI(u)) }
}

// URI is the part of u that says who is meant. It shares no memory with u.
func URI(u *sip.Uri) route.URI {
	if u.Scheme == "tel" || u.Scheme == "urn" {
		_, rest, _ := strings.Cut(u.String(), ":")
		return route.URI{Scheme: u.Scheme, User: strings.Clone(rest)}
	}
	phone, _ := u.UriParams.Get("user")
	return route.URI{Scheme: u.Scheme, User: strings.Clone(u.User), Host: strings.Clone(u.Host), Phone: strings.EqualFold(phone, "phone")}
}
