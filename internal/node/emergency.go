package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// TestNumber is the line's own, else the shop's.
func (h house) TestNumber(name string) string {
	for _, t := range h.n.trunkRecords() {
		if t.Name == name && t.TestNumber != "" {
			return t.TestNumber
		}
	}
	return h.n.shop().TestNumber
}

// tested tells of a test call as of an emergency call, and says that it is one;
// no call back is expected. How it ended is in the shop's record.
func (h house) tested(e b2bua.Emergency) {
	n := h.n
	shop := n.shop()
	now := n.now()
	if zone, err := time.LoadLocation(shop.Zone); err == nil {
		now = now.In(zone)
	}
	who := fmt.Sprintf("%s (%s)", e.From.Display, e.From.Number)
	if !e.Over {
		n.log.Info("TEST of the emergency call", "call", e.Chain, "from", e.From.AOR.User)
		n.tellDesk(shop, "Emergency TEST", fmt.Sprintf("TEST of the emergency call by %s, %s: nobody is in need", who, now.Format("15:04:05")))
		return
	}
	t := site.EmergencyTest{At: now.UTC().Truncate(time.Second), By: who, Number: h.TestNumber(e.Trunk), Trunk: e.Trunk}
	switch {
	case e.Trunk != "":
		t.Result = "answered by " + e.Trunk
	case len(n.trunkRecords()) == 0:
		t.Result = "FAILED: the shop has no line to the outside"
	case !slices.ContainsFunc(n.trunkRecords(), func(t site.Trunk) bool { return h.TestNumber(t.Name) != "" }):
		t.Result = "FAILED: no line has a number to test with"
	default:
		t.Result = "FAILED: " + e.Cause.String()
	}
	n.log.Info("TEST of the emergency call over", "call", e.Chain, "result", t.Result)
	n.tellDesk(shop, "Emergency TEST", "TEST of the emergency call is over: "+t.Result)
	n.wg.Go(func() { // ends within the time given
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := n.noteTest(ctx, "ext "+e.From.AOR.User, t); err != nil {
			n.log.Warn("The test of the emergency call is not in the shop's record", "err", err)
		}
	})
}

func (n *Node) noteTest(ctx context.Context, by string, t site.EmergencyTest) error {
	shop := n.shop()
	if shop.ID.IsZero() {
		own := n.state.Own()
		name := own.Name
		if name == "" {
			name = own.Code
		}
		_, err := state.Create(ctx, n.state, by, site.Shop{Head: site.Head{Name: name}, Tested: t})
		return err
	}
	_, err := state.Change(ctx, n.state, by, shop.ID, "", func(s *site.Shop) error { s.Tested = t; return nil })
	return err
}

// lastTest is nil if there never was one.
func (n *Node) lastTest() *site.EmergencyTest {
	if t := n.shop().Tested; !t.At.IsZero() {
		return &t
	}
	return nil
}

// EmergencyTest walks the way of an emergency call without calling anybody.
func (b *backend) EmergencyTest(_ context.Context, from string) (api.EmergencyPlan, error) {
	n := b.n
	v, h, own, shop := view{n}, house{n}, n.state.Own(), n.shop()
	out := api.EmergencyPlan{Numbers: v.Own().Emergency, Location: shop.Address, Code: route.EmergencyTestCode, Tested: n.lastTest(), Lines: []api.EmergencyLine{}, Steps: []string{}, Wrong: []string{}}
	say := func(format string, args ...any) { out.Steps = append(out.Steps, fmt.Sprintf(format, args...)) }
	wrong := func(format string, args ...any) { out.Wrong = append(out.Wrong, fmt.Sprintf(format, args...)) }
	id, err := n.state.Find(from)
	if err != nil {
		return out, api.NotFound("nobody here is "+from, "name a caller from \"ccnode user list\"")
	}
	e, _ := n.state.Entry(id)
	who := v.entry(e).Party()
	who.Number = route.Shown(v, who)
	out.From = who.AOR.User
	if len(out.Numbers) == 0 {
		wrong("no number is an emergency call here: set them (ccnode site set --emergency 112)")
		return out, nil
	}
	say("%s (%s) dials %s: it is taken from any telephone here, whatever its password, limits or blocks", who.Display, who.Number, strings.Join(out.Numbers, " or "))
	if out.Location == "" {
		wrong("nobody is told where the shop is: give its address (ccnode shop set NAME --address ...)")
	} else {
		say("the front desk is told the place: %s", out.Location)
	}
	out.CallBack = h.CallBack(who)
	switch {
	case out.CallBack == "":
		wrong("no number is shown that the emergency centre could call back: give the user one, or the shop (ccnode shop set NAME --call-back +...)")
	case h.Public(out.CallBack) == "":
		wrong("calls to the call-back number %s go to nobody here after an hour, because no record says where: ccnode number create %[1]s --to ...", out.CallBack)
		fallthrough
	default:
		say("it shows %s, and for an hour calls to that number ring %s first, at either box", out.CallBack, who.Number)
	}
	lan, any := false, false
	states := map[string]api.TrunkState{}
	for _, s := range n.lines() {
		states[s.Name] = s
	}
	call := trunk.Call{From: who, Number: e.E164, Dialled: out.Numbers[0], Emergency: true, CallBack: out.CallBack}
	for _, t := range n.trunkRecords() {
		l := api.EmergencyLine{Name: t.Name, Via: t.Via, Usable: states[t.Name].Usable, State: states[t.Name].State, TestNumber: h.TestNumber(t.Name)}
		if n.calls != nil && n.calls.sip != nil && n.calls.sip.Trunks() != nil {
			if o, err := n.calls.sip.Trunks().Outgoing(t.Name, call); err == nil {
				l.Shown = o.Shown
			} else if errors.Is(err, trunk.ErrUnknown) {
				l.State = "is being set up, ask again"
			} else {
				l.Usable, l.State = false, err.Error()
			}
		}
		out.Lines = append(out.Lines, l)
		word := "down"
		if l.Usable {
			word, any = "up", true
			lan = lan || l.Via == "lan"
		}
		say("line %s (%s): %s, %s; shows %s", l.Name, l.Via, word, l.State, orDash(l.Shown))
		if out.CallBack != "" && l.Shown != "" && l.Shown != out.CallBack {
			wrong("line %s shows %s, not the call-back number %s: it is not one of the line's numbers", l.Name, orDash(l.Shown), out.CallBack)
		}
	}
	switch {
	case len(out.Lines) == 0:
		wrong("this shop has no line to the outside: no emergency call is possible here; add one (ccnode trunk create)")
	case !any:
		wrong("no line is up: an emergency call would be tried on each all the same; see ccnode status")
	case !lan && shop.Waived == "":
		wrong("no line that is up works when the Internet is cut: add a gateway on the LAN (--via lan)")
	}
	if near := h.Neighbours(); len(near) > 0 {
		var codes []string
		for _, b := range near {
			if b.Site.ID == own.ID {
				say("if every line fails, the site's other box tries them")
				continue
			}
			codes = append(codes, b.Site.Code)
		}
		if len(codes) > 0 {
			say("if every line fails, the lines of other shops are tried: %s", strings.Join(codes, ", "))
		}
	}
	if d, ok := n.state.Pick(own.Code + shop.Desk); shop.Desk != "" && ok {
		out.Desk = shop.Desk
		phones := v.Bindings(v.entry(d).AOR)
		say("the front desk %s is told, on %d telephone(s)", shop.Desk, phones)
		if phones == 0 {
			wrong("the front desk %s has no telephone that is registered: nobody there is told", shop.Desk)
		}
	} else {
		wrong("nobody at the front desk is told: ccnode shop set NAME --desk EXTENSION")
	}
	if slices.ContainsFunc(out.Lines, func(l api.EmergencyLine) bool { return l.TestNumber != "" }) {
		say("to make a test call by these lines, dial %s on the telephone", out.Code)
	} else {
		wrong("no line has a number for test calls: ask the provider for one (ccnode trunk set NAME --test-number ..., or ccnode shop set NAME --test-number ...)")
	}
	say("emergency call last tested: %s", testWords(out.Tested))
	return out, nil
}

func testWords(t *site.EmergencyTest) string {
	if t == nil {
		return "never"
	}
	return fmt.Sprintf("%s by %s, %s", t.At.Format("2006-01-02 15:04"), t.By, t.Result)
}

func orDash(s string) string {
	if s == "" {
		return "no number"
	}
	return s
}

// mostNeighbours are tried when the site's own lines fail: the caller waits.
const mostNeighbours = 3

// Neighbours are the pair's other box, which has the same lines by another way,
// and sites of the same country, those lately reached first, the
// nearest first: an emergency centre far away is better than none, but only one
// of the same country can send help.
func (h house) Neighbours() []route.Branch {
	v := view{h.n}
	own := h.n.state.Own()
	var out []route.Branch
	suspect := map[site.ID]bool{}
	for _, s := range h.n.state.Sites() {
		if s.ID == own.ID || s.Country != own.Country {
			continue
		}
		x := v.site(s)
		if len(x.Nodes) == 0 {
			continue
		}
		suspect[s.ID] = v.Suspect(s.ID)
		out = append(out, route.Branch{Site: x, After: route.ShortBudget, Budget: 2 * route.ShortBudget})
	}
	bad := func(b route.Branch) int {
		if suspect[b.Site.ID] {
			return 1
		}
		return 0
	}
	slices.SortFunc(out, func(a, b route.Branch) int {
		return cmp.Or(cmp.Compare(bad(a), bad(b)), cmp.Compare(unknownLast(a.Site.RoundTrip), unknownLast(b.Site.RoundTrip)), cmp.Compare(a.Site.Code, b.Site.Code))
	})
	out = out[:min(len(out), mostNeighbours)]
	// The other box of the site comes before all: its way to the lines may work.
	if x := v.site(own); len(x.Nodes) > 1 {
		x.Nodes = slices.DeleteFunc(slices.Clone(x.Nodes), func(id site.NodeID) bool { return id == h.n.id.Node() || h.n.reach.Suspect(id) })
		if len(x.Nodes) > 0 {
			out = append([]route.Branch{{Site: x, After: route.ShortBudget, Budget: 2 * route.ShortBudget}}, out...)
		}
	}
	return out
}

func unknownLast(d time.Duration) time.Duration {
	if d == 0 {
		return time.Hour
	}
	return d
}

// Place is the shop's address, with its name.
func (h house) Place() string {
	own, shop := h.n.state.Own(), h.n.shop()
	place := own.Name
	if place == "" {
		place = own.Code
	}
	if shop.Address != "" {
		place += ", " + shop.Address
	}
	return place
}
