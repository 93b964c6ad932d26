package site

// A Cause is why a call was refused or ended, in our words. Signalling turns
// it into a SIP status and a Q.850 cause in one table (calls.md §6).
type Cause uint8

const (
	Normal        Cause = iota // ended by a party
	NoSuchNumber               // 404
	Incomplete                 // 484
	Busy                       // 486
	Refused                    // 486, Q.850 21: rejected on the phone
	NoAnswer                   // 480, Q.850 19
	Offline                    // 480, Q.850 20: nobody registered
	Unreachable                // 480, Q.850 27: the store cannot be reached
	NoLine                     // 480, Q.850 34: trunks down or full
	Forbidden                  // 403: not permitted, or over a cap
	NodeFull                   // 480 to phones, 503 to servers
	Elsewhere                  // answered elsewhere: CANCEL with Reason 200
	Cancelled                  // 487: the caller gave up
	MediaLost                  // no RTP, and the peer is gone
	NodeLost                   // the node that owned the call died
	Draining                   // the node is stopping
	NotAcceptable              // 488: no common codec or media
	BadRequest                 // 400
	TooManyHops                // 483, or too many diversions
	Failure                    // 500: our fault
	Transferred                // the other ends talk on without this one
	Twice                      // 482: the same call is at the pair's other node, too, which has it
	LineDown                   // 480, Q.850 38: no line answers
)

var causeNames = [...]string{"normal", "no such number", "incomplete", "busy", "refused", "no answer", "offline",
	"store unreachable", "no free line", "forbidden", "node full", "answered elsewhere", "cancelled", "media lost",
	"node lost", "draining", "not acceptable", "bad request", "too many hops", "failure", "transferred", "at the other node", "lines down"}

func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return "unknown"
}

// Error makes a Cause usable as the reason a call function returns.
func (c Cause) Error() string { return c.String() }
