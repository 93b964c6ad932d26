// Package mwi is the message lamp of a telephone: the event package
// message-summary of RFC 3842, for sipcore/subscribe. The lamp is computed from
// the mailbox each time; nothing of it is stored.
package mwi

import (
	"strconv"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

// Name is the event package.
const Name = "message-summary"

// Summaries says what is in a mailbox. Summary must be fast and may be called
// from any goroutine; a user without a mailbox has the zero Summary.
type Summaries interface {
	Summary(user site.RecordID) site.Summary
}

// A Package is the lamp as an event package (subscribe.Package).
type Package struct{ from Summaries }

// New makes the package. Whoever changes a mailbox calls
// subscribe.Server.Changed(mwi.Name, user) afterwards.
func New(from Summaries) *Package { return &Package{from} }

func (*Package) Name() string { return Name }
func (*Package) Type() string { return "application/simple-message-summary" }

// State is the body of a NOTIFY (RFC 3842 §3.5, §5.2).
func (p *Package) State(line sipcore.Line) []byte {
	return Body(line.AOR, p.from.Summary(line.User))
}

// Body prints a summary. The account names the mailbox, for phones with
// several lines.
func Body(account site.AOR, s site.Summary) []byte {
	waiting := "no"
	if s.New > 0 {
		waiting = "yes"
	}
	return []byte("Messages-Waiting: " + waiting + "\r\nMessage-Account: " + account.String() +
		"\r\nVoice-Message: " + strconv.Itoa(max(0, s.New)) + "/" + strconv.Itoa(max(0, s.Old)) + " (0/0)\r\n")
}
