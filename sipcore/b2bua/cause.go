package b2bua

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// A code is what a Cause looks like on the wire: the final status to phones
// and the Q.850 cause in a Reason header (RFC 3326).
type code struct {
	status int
	reason string // "" is the usual phrase
	q850   int
	text   string
}

// codes is the one table from causes to statuses (calls.md §6). Phones never
// get 503 for a call: they would leave the node (RFC 3261 §21.5.4).
var codes = map[site.Cause]code{
	site.Normal:        {480, "", 16, "Normal call clearing"},
	site.NoSuchNumber:  {404, "", 1, "Unallocated number"},
	site.Incomplete:    {484, "", 28, "Number incomplete"},
	site.Busy:          {486, "", 17, "User busy"},
	site.Refused:       {486, "", 21, "Call rejected"},
	site.NoAnswer:      {480, "", 19, "No answer"},
	site.Offline:       {480, "", 20, "Subscriber absent"},
	site.Unreachable:   {480, "", 27, "Site cannot be reached"},
	site.NoLine:        {480, "", 34, "No line available"},
	site.LineDown:      {480, "", 38, "Lines are down"},
	site.Forbidden:     {403, "", 21, "Call not permitted"},
	site.NodeFull:      {480, "", 42, "Switching equipment congestion"},
	site.Elsewhere:     {487, "", 26, "Call completed elsewhere"},
	site.Cancelled:     {487, "", 16, "Given up by the caller"},
	site.MediaLost:     {480, "", 38, "Media lost"},
	site.NodeLost:      {480, "", 41, "Node lost"},
	site.Draining:      {480, "", 41, "Node is stopping"},
	site.NotAcceptable: {488, "", 88, "Incompatible destination"},
	site.BadRequest:    {400, "", 95, "Invalid message"},
	site.TooManyHops:   {483, "", 25, "Exchange routing error"},
	site.Transferred:   {487, "", 16, "Call transferred"},
	site.Twice:         {482, "", 26, "Call is at the other node"},
	site.Failure:       {500, "", 41, "Temporary failure"},
}

func (s *Server) refusal(tx respondent, c site.Cause) *sip.Response {
	k, ok := codes[c]
	if !ok {
		k = codes[site.Failure]
	}
	res := tx.Response(k.status, k.reason)
	res.AppendHeader(sip.NewHeader("Reason", reason(c)))
	return res
}

type respondent interface {
	Response(status int, reason string) *sip.Response
}

// reason prints the Reason header of a final response or BYE.
func reason(c site.Cause) string {
	k, ok := codes[c]
	if !ok {
		k = codes[site.Failure]
	}
	return "Q.850;cause=" + strconv.Itoa(k.q850) + `;text="` + k.text + `"`
}

// elsewhere is the reason of a CANCEL to phones that lost (RFC 3326 §2).
const elsewhere = `SIP;cause=200;text="Call completed elsewhere"`

// causeOf says what a refusal of a phone or of another node means. Another
// node tells more in its Reason header.
func causeOf(res *sip.Response) site.Cause {
	q := q850(message.Get(res, "Reason"))
	switch res.StatusCode {
	case 400, 414, 420:
		return site.BadRequest
	case 403:
		return site.Forbidden
	case 404, 410, 604:
		return site.NoSuchNumber
	case 484:
		return site.Incomplete
	case 483:
		return site.TooManyHops
	case 486, 600:
		if q == 21 {
			return site.Refused
		}
		return site.Busy
	case 603:
		return site.Refused
	case 487:
		return site.Cancelled
	case 415, 488, 606:
		return site.NotAcceptable
	case 480, 408:
		for _, c := range [...]site.Cause{site.Offline, site.Unreachable, site.NoLine, site.LineDown, site.NodeFull, site.Draining, site.NoAnswer} {
			if q == codes[c].q850 {
				return c
			}
		}
		return site.NoAnswer
	}
	return site.Failure
}

// q850 reads the cause number of a Q.850 Reason header, 0 if there is none.
func q850(h string) int {
	for part := range strings.SplitSeq(h, ",") {
		proto, params, _ := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(proto), "Q.850") {
			continue
		}
		for p := range strings.SplitSeq(params, ";") {
			if k, v, ok := strings.Cut(p, "="); ok && strings.EqualFold(strings.TrimSpace(k), "cause") {
				n, _ := strconv.Atoi(strings.TrimSpace(v))
				return n
			}
		}
	}
	return 0
}

// endedBy says why a BYE was sent.
func endedBy(req *sip.Request) site.Cause {
	switch q850(message.Get(req, "Reason")) {
	case codes[site.NodeLost].q850:
		return site.Draining
	case codes[site.MediaLost].q850:
		return site.MediaLost
	}
	return site.Normal
}

// failure is the Cause in err, Failure if it has none.
func failure(err error) site.Cause {
	var c site.Cause
	if errors.As(err, &c) {
		return c
	}
	return site.Failure
}

var (
	// ErrOver is returned by methods of a Call or Leg that has ended.
	ErrOver = errors.New("the call is over")
	// ErrAnswered is returned by Reject after Answer.
	ErrAnswered = errors.New("the call was answered")
)

func over(what string, c site.Cause) error { return fmt.Errorf("%s: %w (%w)", what, ErrOver, c) }
