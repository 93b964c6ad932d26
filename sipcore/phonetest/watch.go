package phonetest

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A Lit is one call as a lamp shows it: a dialog of RFC 4235 §4.1.
type Lit struct {
	ID, CallID          string
	LocalTag, RemoteTag string
	Direction           string // "initiator" or "recipient"
	State               string // "trying", "early", "confirmed", "terminated"…
	Remote, Display     string // URI and name of who is at the other end
}

// Replaces names the call to a server that lets it be picked up (RFC 3891).
func (l Lit) Replaces() Replaces {
	return Replaces{CallID: l.CallID, ToTag: l.LocalTag, FromTag: l.RemoteTag}
}

// Shown is what a lamp shows: a document of RFC 4235.
type Shown struct {
	Version uint32
	Full    bool
	Entity  string
	Calls   []Lit
}

// State is the state of the first call that is not over, "" if there is none.
func (s Shown) State() string {
	for _, c := range s.Calls {
		if c.State != "terminated" {
			return c.State
		}
	}
	return ""
}

// A Watch is a lamp for what somebody else's telephone does.
type Watch struct {
	p    *Phone
	whom sip.Uri
	turn chan struct{} // holds a token: one SUBSCRIBE at a time

	// guarded by Phone.mu
	dlg      dialog
	active   bool
	shown    Shown
	notifies int
	err      error         // of the newest document
	changed  chan struct{} // closed at each NOTIFY
}

// Watch asks for the lamp of whom, as a person would dial him (RFC 4235). The
// first NOTIFY may come after it returns. It is renewed by Renew only. The
// error is a *Refusal if the server refused.
func (p *Phone) Watch(ctx context.Context, whom string) (*Watch, error) {
	u, _, err := p.uri(whom)
	if err != nil {
		return nil, err
	}
	w := &Watch{p: p, whom: u, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	if err := w.subscribe(ctx, 300*time.Second); err != nil {
		return nil, fmt.Errorf("watch %s: %w", whom, err)
	}
	return w, nil
}

// Renew subscribes again: in the dialog, and anew if the server knows it no more.
func (w *Watch) Renew(ctx context.Context) error { return w.subscribe(ctx, 300*time.Second) }

// End unsubscribes; one more NOTIFY comes.
func (w *Watch) End(ctx context.Context) error { return w.subscribe(ctx, 0) }

// Shown is what the lamp shows, after how many NOTIFYs.
func (w *Watch) Shown() (s Shown, notifies int) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.shown, w.notifies
}

// Wait returns what the lamp shows as soon as ok says yes to it. What it showed
// before the first NOTIFY is not asked about.
func (w *Watch) Wait(ctx context.Context, ok func(Shown) bool) (Shown, error) {
	for {
		w.p.mu.Lock()
		s, n, err, changed := w.shown, w.notifies, w.err, w.changed
		w.p.mu.Unlock()
		switch {
		case err != nil:
			return s, err
		case n > 0 && ok(s):
			return s, nil
		}
		select {
		case <-changed:
		case <-w.p.ctx.Done():
			return s, errClosed
		case <-ctx.Done():
			return s, fmt.Errorf("wait for the lamp of %s, which shows %+v after %d NOTIFYs: %w", w.whom.User, s, n, context.Cause(ctx))
		}
	}
}

// WaitState is Wait for the state of the call it shows; "" is for none.
func (w *Watch) WaitState(ctx context.Context, state string) (Shown, error) {
	s, err := w.Wait(ctx, func(s Shown) bool { return s.State() == state })
	if err != nil {
		return s, fmt.Errorf("lamp is to show %q: %w", state, err)
	}
	return s, nil
}

func (w *Watch) subscribe(ctx context.Context, expires time.Duration) error {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p := w.p
	p.mu.Lock()
	refresh := w.active
	p.mu.Unlock()
	if refresh {
		p.mu.Lock()
		d := w.dlg.dest
		p.mu.Unlock()
		a, err := p.ask(ctx, w.wish(expires), d, 4*p.cfg.Patience)
		switch {
		case err == nil && a.StatusCode < 300:
			return nil
		case ctx.Err() != nil || expires == 0:
			return err
		}
	}
	d := p.newDialog(w.whom, p.at(p.Server()))
	p.mu.Lock()
	delete(p.lamp.watches, w.dlg.callID)
	w.dlg, w.active, w.notifies, w.err = d, false, 0, nil
	if p.lamp.watches == nil {
		p.lamp.watches = map[string]*Watch{}
	}
	p.lamp.watches[d.callID] = w
	p.mu.Unlock()
	a, err := p.askServers(ctx, w.wish(expires))
	if err == nil && a.StatusCode >= 300 {
		err = refusal(a.Response)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		delete(p.lamp.watches, d.callID)
		return err
	}
	w.dlg.dest = a.dest
	w.dlg.established(a.Response)
	w.active = true
	return nil
}

func (w *Watch) wish(expires time.Duration) wish {
	p := w.p
	return wish{build: func() *sip.Request {
		p.mu.Lock()
		req := w.dlg.next(sip.SUBSCRIBE)
		p.mu.Unlock()
		p.about(req)
		req.AppendHeader(sip.NewHeader("Event", "dialog"))
		req.AppendHeader(sip.NewHeader("Accept", "application/dialog-info+xml"))
		req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(expires/time.Second))))
		return req
	}}
}

// watched takes a NOTIFY if it belongs to a Watch.
func (p *Phone) watched(tx *transaction.ServerTx, tag string) bool {
	req := tx.Request()
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.lamp.watches[req.CallID().Value()]
	from, seq := req.From().Params.GetOr("tag", ""), req.CSeq().SeqNo
	switch {
	case w == nil || w.dlg.localTag != tag || w.dlg.remoteTag != "" && w.dlg.remoteTag != from:
		return false
	case w.dlg.remoteSeq != 0 && seq <= w.dlg.remoteSeq:
		p.respond(tx, tx.Response(500, "CSeq Out Of Order"))
		return true
	}
	w.dlg.remoteSeq, w.dlg.remoteTag = seq, from
	w.dlg.refresh(req)
	p.respond(tx, tx.Response(200, ""))
	if len(req.Body()) > 0 {
		s, err := parseDialogInfo(req.Body())
		if err == nil && w.notifies > 0 && s.Version != w.shown.Version+1 {
			err = fmt.Errorf("a document has version %d after %d", s.Version, w.shown.Version)
		}
		w.shown, w.err = s, err
	}
	if s, _, _ := strings.Cut(message.Get(req, "Subscription-State"), ";"); strings.EqualFold(strings.TrimSpace(s), "terminated") {
		w.active = false
		delete(p.lamp.watches, w.dlg.callID)
	}
	w.notifies++
	close(w.changed)
	w.changed = make(chan struct{})
	return true
}

// parseDialogInfo reads a full document of RFC 4235 §4.
func parseDialogInfo(b []byte) (Shown, error) {
	var doc struct {
		XMLName xml.Name `xml:"urn:ietf:params:xml:ns:dialog-info dialog-info"`
		Version string   `xml:"version,attr"`
		State   string   `xml:"state,attr"`
		Entity  string   `xml:"entity,attr"`
		Dialogs []struct {
			ID        string `xml:"id,attr"`
			CallID    string `xml:"call-id,attr"`
			LocalTag  string `xml:"local-tag,attr"`
			RemoteTag string `xml:"remote-tag,attr"`
			Direction string `xml:"direction,attr"`
			State     string `xml:"state"`
			Remote    struct {
				Identity struct {
					Display string `xml:"display,attr"`
					URI     string `xml:",chardata"`
				} `xml:"identity"`
			} `xml:"remote"`
		} `xml:"dialog"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return Shown{}, fmt.Errorf("read dialog-info: %w", err)
	}
	n, err := strconv.ParseUint(doc.Version, 10, 32)
	if err != nil {
		return Shown{}, fmt.Errorf("read dialog-info: version: %w", err)
	}
	s := Shown{Version: uint32(n), Full: doc.State == "full", Entity: doc.Entity}
	ids := map[string]bool{}
	for _, d := range doc.Dialogs {
		if d.ID == "" || ids[d.ID] {
			return Shown{}, errors.New("read dialog-info: each dialog needs an id of its own")
		}
		ids[d.ID] = true
		s.Calls = append(s.Calls, Lit{d.ID, d.CallID, d.LocalTag, d.RemoteTag, d.Direction, strings.TrimSpace(d.State),
			strings.TrimSpace(d.Remote.Identity.URI), d.Remote.Identity.Display})
	}
	return s, nil
}
