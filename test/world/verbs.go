package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A verb carries out one command. args are what follows it.
type verb func(w *World, args []string) ([]string, error)

// verbs are the language of the stories. A name like A is a site, or the box of
// a site with one; A-a and A-b are the boxes of a pair.
var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"fleet":     (*World).fleet,     // fleet A* B C: sites; * has a pair
		"away":      (*World).away,      // away V W from A: V is from now on one of the other two sites that does not keep A's state, W the other
		"invite":    (*World).invite,    // invite D at A: a token for a new site, or for the second box of A: invite A-b at A
		"join":      (*World).join,      // join D: with the token made for it
		"start":     (*World).restart,   // start A-b: switches on
		"share":     (*World).share,     // share 60: changes of a scope that one box may have others keep; said before fleet
		"crowd":     (*World).crowd,     // crowd 80 at C: users without telephones
		"owes":      (*World).owes,      // owes at A: for which sites changes wait there
		"clock":     (*World).clock,     // clock B 2h: its time of day is wrong from now on; clock B right
		"held":      (*World).heldBack,  // held at A: whose changes wait there, and for what
		"alike":     (*World).alike,     // alike A B: whether they have the same of what all hold
		"restart":   (*World).restart,   // restart A: off in order if it is on, and on
		"stop":      (*World).stops,     // stop A: off in order
		"kill":      (*World).kills,     // kill A: a power cut
		"partition": (*World).cuts,      // partition A | B C
		"heal":      (*World).heals,     // heal
		"wait":      (*World).waits,     // wait 15m; wait until 09:30: what is said later with a time does not depend on when boxes dialled again
		"mark":      (*World).mark,      // mark: bytes are counted from here
		"bytes":     (*World).bytes,     // bytes wan | bytes lan | bytes, and "under N"
		"settled":   (*World).settled,   // settled [in 20s] [A C]: all hold the same and owe nothing
		"create":    (*World).create,    // create bob at B [number 201]
		"group":     (*World).makeGroup, // group sales 300 ana ben at A [turn] [overflow voicemail] [e164 +33…]
		"gateway":   (*World).gateway,   // gateway fxo at A [number +33…] [to 201] [minutes 5]: a line to the outside on the LAN, and its telephone
		"fork":      (*World).fork,      // fork fxo +33… [ids] [apart 300ms]: the provider sends one call to both boxes
		"loosen":    (*World).loosen,    // loosen fxo A-a: no datagram passes between that telephone and that box
		"emergency": (*World).emergency, // emergency ana at A: how an emergency call would go, and when that was tried
		"hours":     (*World).hours,     // hours shop Mo-Fr 09:00-18:00 at A: opening hours in Europe/Paris
		"menu":      (*World).menu,      // menu main 310 1=201,2=300 at A [hours shop] [closed 301]: closed: where calls go then
		"press":     (*World).press,     // press ana 1: keys, by who made a call; then who answers
		"shop":      (*World).shop,      // shop Lyon at A desk 202 callback +33472001200
		"texts":     (*World).texts,     // texts ben: what the telephone was shown
		"edit":      (*World).edit,      // edit bob name Robert at A
		"appoint":   (*World).appoint,   // appoint ann at A [of A B]: an administrator, of the fleet or of sites
		"login":     (*World).login,     // login ann at B: what edit, disable, enable and user do there from now on is hers
		"logout":    (*World).logout,    // logout at B
		"dismiss":   (*World).dismiss,   // dismiss ann at A: revokes the administrator
		"disable":   (*World).disable,   // disable bob at A
		"enable":    (*World).enable,    // enable bob at A: says that the disable was seen
		"user":      (*World).user,      // user bob at A: what A knows
		"merges":    (*World).merges,    // merges at A
		"keep":      (*World).keep,      // keep 1 voicemail at A: that side of the merge shown first
		"alter":     (*World).alter,     // alter group sales add ben at A: add, remove, number 301, overflow 201, delete, restore; alter menu main key 3=202 at A
		"delete":    (*World).remove,    // delete bob at A
		"file":      (*World).file,      // file ana 1 trash at A: moves a message, as a person does on the page
		"shares":    (*World).shares,    // shares sales at A: who is in the group
		"history":   (*World).history,   // history ana forward_all at A: who changed it
		"follow":    (*World).follow,    // follow A [on]: somebody reads A's events from now on, or goes on where that was interrupted
		"deaf":      (*World).deaf,      // deaf A: nobody reads them any more
		"heard":     (*World).readOut,   // heard A: what was read since it was last asked
		"undo":      (*World).undo,      // undo ana name 1 at A [yes]: the newest change of that field
		"revoke":    (*World).revoke,    // revoke B at A
		"peers":     (*World).showPeers, // peers at A
		"members":   (*World).members,   // members at A
		"messages":  (*World).messages,  // messages bob at B
		"register":  (*World).register,  // register bob at B [or fail]
		"out":       (*World).out,       // out bob: nobody answers that telephone
		"home":      (*World).home,      // home bob
		"unplug":    (*World).unplug,    // unplug bob: the telephone is gone without a word
		"route":     (*World).routes,    // route ana bob at A: what would become of a call
		"records":   (*World).records,   // records at A [in 1h]: calls that ended there lately
		"where":     (*World).where,     // where bob at A-b [in 200ms]
		"lamp":      (*World).lamp,      // lamp bob
		"call":      func(w *World, a []string) ([]string, error) { return w.calls(a) },
		"say":       (*World).says,     // say 12s: whoever made a call speaks, after the tone
		"hangup":    (*World).hangups,  // hangup alice
		"transfer":  (*World).transfer, // transfer ben to cat [after asking | while it rings]
		"hold":      (*World).holdKey,  // hold ben
		"resume":    (*World).resume,   // resume ben
		"dials":     (*World).dials,    // dials cat *71
		"starts":    (*World).starts,   // starts ana ben: it rings
		"ears":      (*World).ears,     // ears ana cat: what they hear
		"watch":     (*World).watch,    // watch cat ben *71: lamps for them on cat's telephone
		"lights":    (*World).lights,   // lights cat [*71] [in 1s]: what those lamps show
		"takes":     (*World).takes,    // takes cat ben: cat presses the lamp of ben that blinks
	}
}

// Do carries out one command.
func (w *World) Do(words []string) ([]string, error) {
	v := verbs[words[0]]
	if v == nil {
		return nil, fmt.Errorf("there is no such verb")
	}
	return v(w, words[1:])
}

// option takes "key value" out of args.
func option(args []string, key string) (value string, rest []string) {
	i := slices.Index(args, key)
	if i < 0 || i+1 >= len(args) {
		return "", args
	}
	return args[i+1], append(slices.Clone(args[:i]), args[i+2:]...)
}

// at takes "at A" from the end of args.
func (w *World) at(args []string) (*box, []string, error) {
	if len(args) < 2 || args[len(args)-2] != "at" {
		return nil, args, fmt.Errorf("say where: at SITE")
	}
	b, err := w.asked(args[len(args)-1])
	return b, args[:len(args)-2], err
}

func need(args []string, n int, usage string) error {
	if len(args) != n {
		return fmt.Errorf("write it like: %s", usage)
	}
	return nil
}

func (w *World) waits(args []string) ([]string, error) {
	const usage = "wait 15m, or wait until 09:30"
	if len(args) == 2 && args[0] == "until" {
		at, err := time.Parse("15:04", args[1])
		if err != nil {
			return nil, need(nil, 1, usage)
		}
		now := time.Now().UTC()
		y, m, d := now.Date()
		left := time.Date(y, m, d, at.Hour(), at.Minute(), 0, 0, time.UTC).Sub(now)
		if left < 0 {
			return nil, fmt.Errorf("it is %s already", now.Format("15:04"))
		}
		time.Sleep(left)
		return nil, nil
	}
	if err := need(args, 1, usage); err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return nil, err
	}
	time.Sleep(d)
	return nil, nil
}

func (w *World) clock(args []string) ([]string, error) {
	if err := need(args, 2, "clock B 2h, or clock B right"); err != nil {
		return nil, err
	}
	b, err := w.asked(args[0])
	if err != nil {
		return nil, err
	}
	d := time.Duration(0)
	if args[1] != "right" {
		if d, err = time.ParseDuration(args[1]); err != nil {
			return nil, err
		}
	}
	b.ahead.Store(int64(d))
	return nil, nil
}

func (w *World) cuts(args []string) ([]string, error) {
	return nil, w.partition(strings.Split(strings.Join(args, " "), "|"))
}

func (w *World) heals([]string) ([]string, error) {
	w.heal()
	return nil, nil
}

func (w *World) mark([]string) ([]string, error) {
	w.marks = w.carried()
	return nil, nil
}

// bytes tells what the mesh carried since the mark: exactly, or only whether it
// stayed under a bound, because sizes differ by a few bytes from run to run.
func (w *World) bytes(args []string) ([]string, error) {
	bound, args := option(args, "under")
	now := w.carried()
	wan, lan := now.wan-w.marks.wan, now.lan-w.marks.lan
	n, what := wan+lan, "mesh"
	if len(args) == 1 && args[0] == "wan" {
		n, what = wan, "wan"
	} else if len(args) == 1 && args[0] == "lan" {
		n, what = lan, "lan"
	}
	if bound == "" {
		return []string{fmt.Sprintf("%s: %d bytes", what, n)}, nil
	}
	var most int64
	if _, err := fmt.Sscan(bound, &most); err != nil {
		return nil, err
	}
	w.figures = append(w.figures, fmt.Sprintf("%s: %d bytes, want fewer than %d", what, n, most))
	switch {
	case n == 0:
		return []string{what + ": 0 bytes"}, nil
	case n < most:
		return []string{fmt.Sprintf("%s: some bytes, under %d", what, most)}, nil
	}
	return []string{fmt.Sprintf("%s: %d bytes", what, n)}, nil
}

// within is the context of one request to a box.
func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// until asks again every 20 ms until fn is content.
func until(d time.Duration, fn func() error) (took time.Duration, err error) {
	began := time.Now()
	for {
		if err = fn(); err == nil || time.Since(began) >= d {
			return time.Since(began), err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
