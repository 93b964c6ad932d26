package trunk

import (
	"errors"
	"time"
)

// Errors of this room.
var (
	ErrUnknown  = errors.New("no such trunk")
	ErrNowhere  = errors.New("no address of it is known")
	ErrPassword = errors.New("the provider refuses the password")
	ErrRealm    = errors.New("the password was asked for in a realm that is not the provider's")
	ErrMethod   = errors.New("no challenge that can be answered")
)

// ReplyWithin is how long a trunk may take to show any sign of life before the
// next one is tried (calls.md §3 step 8).
const ReplyWithin = 4 * time.Second

// EmergencyWithin is the same for an emergency call, and ReplyWithin what a
// line may take that says 100 and nothing else: with the Internet cut the call
// must have left by another way in 2 s.
const EmergencyWithin = time.Second

// An Answer says what an answer to an INVITE means for the choice of trunks.
type Answer uint8

const (
	Wait      Answer = iota // provisional: this trunk is alive
	Answered                // 2xx
	Challenge               // send it again with what Authorize gives; without one: Next
	Next                    // the trunk failed: the next one
	Final                   // the call failed: no other trunk would do better
)

func (a Answer) String() string {
	return [...]string{"wait", "answered", "challenge", "next", "final"}[a]
}

// Classify says what to do after a response with that status, or after err
// when there was none (no reply in ReplyWithin, no connection). The called
// party's own words (404, 480, 484, 486, 487, 6xx) are final: another trunk
// would ring the same telephone again. An emergency call takes every failure
// but the caller's own hanging up as a reason to go on.
func Classify(status int, err error, emergency bool) Answer {
	switch {
	case err != nil || status == 0:
		return Next
	case status < 200:
		return Wait
	case status < 300:
		return Answered
	case status == 401 || status == 407:
		return Challenge
	case status == 487:
		return Final
	case status == 408, status/100 == 5, emergency:
		return Next
	}
	return Final
}
