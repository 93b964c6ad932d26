package phonetest

import (
	"strings"

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
