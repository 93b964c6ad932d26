package phonetest

import (
	"strings"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// told takes a text (RFC 3428).
func (p *Phone) told(tx *transaction.ServerTx) {
	p.mu.Lock()
	p.texts = append(p.texts, strings.Clone(string(tx.Request().Body())))
	p.mu.Unlock()
	p.respond(tx, tx.Response(200, ""))
}

// Texts are the messages the phone was sent, oldest first.
func (p *Phone) Texts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.texts...)
}

// synced takes a NOTIFY outside of any dialog: only check-sync, which asks a
// phone to fetch its settings again.
func (p *Phone) synced(tx *transaction.ServerTx) {
	event := message.Get(tx.Request(), "Event")
	if name, _, _ := strings.Cut(event, ";"); !strings.EqualFold(strings.TrimSpace(name), "check-sync") {
		p.respond(tx, tx.Response(481, ""))
		return
	}
	p.mu.Lock()
	p.syncs = append(p.syncs, strings.Clone(event))
	p.mu.Unlock()
	p.respond(tx, tx.Response(200, ""))
}

// Syncs are the Event headers of the check-syncs that came, oldest first.
func (p *Phone) Syncs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.syncs...)
}
