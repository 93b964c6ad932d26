package world

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
)

// create bob at B [number 0001250] [as Eve]: the first box of the site that is on does it.
func (w *World) create(args []string) ([]string, error) {
	number, args := option(args, "number")
	name, args := option(args, "as")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "create bob at B")
	}
	if err != nil {
		return nil, err
	}
	who := args[0]
	if name == "" {
		name = strings.ToUpper(who[:1]) + who[1:]
	}
	if number == "" {
		number = strconv.Itoa(b.site.next)
		b.site.next++
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	u, err := b.api.CreateUser(ctx, adminsName, api.NewUser{Number: number, Name: name})
	if err != nil {
		return nil, err
	}
	_, err = w.plug(who, b.site, u)
	return nil, err
}

// register bob at B creates the user if nobody knows him, and switches his
// telephone on there: it registers, and subscribes to its lamp.
func (w *World) register(args []string) ([]string, error) {
	b, rest, err := w.at(args)
	if err == nil {
		err = need(rest, 1, "register bob at B")
	}
	if err != nil {
		return nil, err
	}
	if w.phones[rest[0]] == nil {
		if _, err := w.create(args); err != nil {
			return nil, err
		}
	}
	p := w.phones[rest[0]]
	if p.at != b.site {
		if p, err = w.plug(rest[0], b.site, p.user); err != nil {
			return nil, err
		}
	}
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	if err := p.tel.Register(ctx); err != nil {
		return nil, err
	}
	return nil, p.tel.SubscribeMWI(ctx)
}

// unplug switches a telephone off, which nobody is told.
func (w *World) unplug(args []string) ([]string, error) {
	if err := need(args, 1, "unplug bob"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	p.off()
	delete(w.phones, args[0])
	return nil, nil
}

func (w *World) stays(args []string, away bool) ([]string, error) {
	for _, who := range args {
		p := w.phones[who]
		if p == nil {
			return nil, fmt.Errorf("%s has no telephone", who)
		}
		p.mu.Lock()
		p.away = away
		p.mu.Unlock()
	}
	return nil, nil
}

func (w *World) out(args []string) ([]string, error)  { return w.stays(args, true) }
func (w *World) home(args []string) ([]string, error) { return w.stays(args, false) }

// id is how a box is asked about a user.
func (w *World) id(who string) string {
	if p := w.phones[who]; p != nil {
		return p.user.ID.String()
	}
	return who
}

// makeGroup, group sales 300 ana ben at A [turn] [overflow bob], makes a number that rings several.
func (w *World) makeGroup(args []string) ([]string, error) {
	overflow, args := option(args, "overflow")
	public, args := option(args, "e164")
	turn := len(args) > 0 && args[len(args)-1] == "turn"
	if turn {
		args = args[:len(args)-1]
	}
	b, args, err := w.at(args)
	if err == nil && len(args) < 3 {
		err = errors.New("write it like: group sales 300 ana ben at A")
	}
	if err != nil {
		return nil, err
	}
	g := site.Group{Head: site.Head{Name: args[0]}, Number: args[1], Overflow: overflow, E164: public}
	if turn {
		g.Strategy = "turn"
	}
	for _, who := range args[2:] {
		g.Members = append(g.Members, w.id(who))
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	_, err = b.api.Shop().Groups.Create(ctx, adminsName, g)
	return nil, err
}

// gateway fxo at A [number +33472001200 to 201] makes a line to the outside on
// the shop's LAN; at its other end is one telephone, which is called by whatever
// number, and calls the public number.
func (w *World) gateway(args []string) ([]string, error) {
	number, args := option(args, "number")
	to, args := option(args, "to")
	minutes, args := option(args, "minutes")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "gateway fxo at A")
	}
	if err != nil {
		return nil, err
	}
	p, err := w.plug(args[0], b.site, api.User{Name: args[0], Number: "line", Devices: []api.Device{{}}})
	if err != nil {
		return nil, err
	}
	limit := 0
	if minutes != "" {
		if limit, err = strconv.Atoi(minutes); err != nil {
			return nil, err
		}
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	if to != "" {
		if _, err := b.api.Shop().Numbers.Create(ctx, adminsName, site.Inbound{Head: site.Head{Name: number}, To: to}); err != nil {
			return nil, err
		}
	}
	_, err = b.api.Shop().Trunks.Create(ctx, adminsName, site.Trunk{Head: site.Head{Name: args[0]}, Kind: "peer", Via: "lan", Server: p.tel.Addr().String(), Number: number, Minutes: limit})
	return nil, err
}

// hours shop Mo-Fr 09:00-18:00 at A
func (w *World) hours(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil && len(args) < 2 {
		err = errors.New("write it like: hours shop Mo-Fr 09:00-18:00 at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	_, err = b.api.Shop().Hours.Create(ctx, adminsName, site.Hours{Head: site.Head{Name: args[0]}, Zone: "Europe/Paris", Text: strings.Join(args[1:], " ")})
	return nil, err
}

// menu main 310 1=201,2=300 at A hours shop closed 301
func (w *World) menu(args []string) ([]string, error) {
	hours, args := option(args, "hours")
	closed, args := option(args, "closed")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 3, "menu main 310 1=201,2=300 at A")
	}
	if err != nil {
		return nil, err
	}
	m := site.Menu{Head: site.Head{Name: args[0]}, Number: args[1], Hours: hours, Dial: true, Closed: site.MenuPart{Forward: closed}}
	m.Open.Keys = map[string]string{}
	for kv := range strings.SplitSeq(args[2], ",") {
		k, to, _ := strings.Cut(kv, "=")
		m.Open.Keys[k] = strings.ReplaceAll(to, "_", " ")
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	_, err = b.api.Shop().Menus.Create(ctx, adminsName, m)
	return nil, err
}

// press sends keys in the call a person made, and tells who is there then.
func (w *World) press(args []string) ([]string, error) {
	if err := need(args, 2, "press ana 1"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil || p.call == nil {
		return nil, fmt.Errorf("%s is in no call", args[0])
	}
	return w.keys(p, args[1])
}

// shop Lyon at A desk 202 callback +33472001200 says what holds for the site.
func (w *World) shop(args []string) ([]string, error) {
	desk, args := option(args, "desk")
	back, args := option(args, "callback")
	test, args := option(args, "test")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "shop Lyon at A desk 202")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	_, err = b.api.Shop().Shop.Create(ctx, adminsName, site.Shop{Head: site.Head{Name: args[0]}, Zone: "Europe/Paris", Desk: desk, CallBack: back, TestNumber: test, Address: "1 rue de la Paix"})
	return nil, err
}

// texts shows what somebody's telephone was told.
func (w *World) texts(args []string) (out []string, err error) {
	if err := need(args, 1, "texts ben"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	synctest.Wait() // what was sent has arrived
	for _, t := range p.tel.Texts() {
		out = append(out, args[0]+": "+clock.ReplaceAllStringFunc(t, recent))
	}
	return out, nil
}

var clock = regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`)

// recent says "now" for a time of the last minute, in whatever zone: how long
// joining and telling take may differ by a second between two runs.
func recent(hms string) string {
	at, err := time.Parse(time.TimeOnly, hms)
	now := time.Now()
	if ago := (now.Minute()*60 + now.Second() - at.Minute()*60 - at.Second() + 3600) % 3600; err != nil || ago > 60 {
		return hms
	}
	return "now"
}

// patch is one field of a user, as a person writes it.
func patch(field, value string) (p api.UserPatch, err error) {
	texts := map[string]**string{"number": &p.Number, "name": &p.Name, "e164": &p.E164, "forwardAll": &p.ForwardAll, "forwardBusy": &p.ForwardBusy,
		"forwardNoAnswer": &p.ForwardNoAnswer, "forwardOffline": &p.ForwardOffline, "pin": &p.PIN, "class": &p.Class}
	flags := map[string]**bool{"disabled": &p.Disabled, "deleted": &p.Deleted, "doNotDisturb": &p.DoNotDisturb}
	switch {
	case texts[field] != nil:
		if value == "nothing" {
			value = ""
		}
		*texts[field] = &value
	case flags[field] != nil:
		v, err := strconv.ParseBool(value)
		if err != nil {
			return p, err
		}
		*flags[field] = &v
	default:
		return p, fmt.Errorf("no field %s", field)
	}
	return p, nil
}

// edit changes one field. A person who edits has seen what the box shows.
func (w *World) edit(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil && len(args) < 3 {
		err = errors.New("write it like: edit bob name Robert at A")
	}
	if err != nil {
		return nil, err
	}
	p, err := patch(args[1], strings.Join(args[2:], " "))
	if err != nil {
		return nil, err
	}
	ctx, who, cancel, err := b.as(60 * time.Second)
	if err != nil {
		return nil, err
	}
	defer cancel()
	u, err := b.api.PatchUser(ctx, who, w.id(args[0]), "", p)
	return waiting(b, u), err
}

// waiting tells what waits at a box for another site.
func waiting(b *box, u api.User) (out []string) {
	for _, x := range u.Waiting {
		out = append(out, fmt.Sprintf("%s: waits for site %s: %s", b.name, u.Site, x))
	}
	return out
}

func (w *World) flag(args []string, value string) ([]string, error) {
	if len(args) != 3 {
		return nil, errors.New("write it like: disable bob at A")
	}
	return w.edit([]string{args[0], "disabled", value, args[1], args[2]})
}

func (w *World) disable(args []string) ([]string, error) { return w.flag(args, "true") }
func (w *World) enable(args []string) ([]string, error)  { return w.flag(args, "false") }

// user tells what a box knows of somebody: what differs from a new user's; with
// age, since when it knows that.
func (w *World) user(args []string) ([]string, error) {
	n := len(args)
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "age" })
	age := len(args) < n
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "user bob at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, _, cancel, err := b.as(30 * time.Second)
	if err != nil {
		return nil, err
	}
	defer cancel()
	u, err := b.api.User(ctx, w.id(args[0]))
	if err != nil {
		return []string{b.name + ": " + err.Error()}, nil
	}
	line := fmt.Sprintf("%s: %s is %s of site %s", b.name, u.Number, u.Name, u.Site)
	for _, x := range []struct{ name, value string }{{"forwardAll", u.ForwardAll}, {"forwardBusy", u.ForwardBusy}, {"forwardNoAnswer", u.ForwardNoAnswer}, {"forwardOffline", u.ForwardOffline}} {
		if x.value != "" {
			line += ", " + x.name + " " + x.value
		}
	}
	if u.Disabled {
		line += ", disabled"
	}
	if len(u.Clash) > 0 {
		line += fmt.Sprintf(", shares the number with %d", len(u.Clash))
	}
	if age && u.AsOf.Heard != nil {
		line += ", as of " + u.AsOf.Heard.UTC().Format("15:04")
	}
	if age && u.AsOf.Trouble != nil {
		line += ", not reached since " + u.AsOf.Trouble.UTC().Format("15:04")
	}
	return append([]string{line}, waiting(b, u)...), nil
}

// merges tells what two sides changed without seeing each other; with why, all
// that is known of it.
func (w *World) merges(args []string) (out []string, err error) {
	n := len(args)
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "why" })
	all := len(args) < n
	b, _, err := w.at(args)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	ms, err := b.api.Merges(ctx, false)
	if err != nil {
		return nil, err
	}
	if len(ms) == 0 {
		return []string{b.name + ": no merges"}, nil
	}
	for _, m := range ms {
		line := fmt.Sprintf("%s: %s of %s", b.name, m.Kind, m.Record)
		if m.Field != "" {
			line += ", " + m.Field
		}
		out = append(out, fmt.Sprintf("%s: in force %q", line, m.InForce))
		for _, x := range []struct{ name, value string }{{"why", m.Why}, {"both", m.Both}, {"do", m.Do}} {
			if all && x.value != "" {
				out = append(out, b.name+":   "+x.name+": "+x.value)
			}
		}
		var sides []string
		for _, s := range m.Sides {
			line := fmt.Sprintf("%s:   %q by %s at %s", b.name, s.Value, s.By, s.At.UTC().Format("15:04"))
			if all && s.Was != nil {
				line += fmt.Sprintf(", was %q", *s.Was)
			}
			if all && s.Node != "" {
				line += ", at box " + s.Node
			}
			if all {
				line += " of site " + s.Site
			}
			sides = append(sides, line)
		}
		slices.Sort(sides)
		out = append(out, sides...)
	}
	return out, nil
}

// keep 1 voicemail at A keeps the side of the merge that has that value; keep 1
// both at A keeps what all sides say together.
func (w *World) keep(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil && len(args) < 2 {
		err = errors.New("write it like: keep 1 voicemail at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	ms, err := b.api.Merges(ctx, false)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > len(ms) {
		return nil, fmt.Errorf("there are %d merges", len(ms))
	}
	want := strings.Join(args[1:], " ")
	if want == "both" {
		return nil, b.api.KeepMerge(ctx, adminsName+"@"+b.name, ms[n-1].ID, want)
	}
	for _, s := range ms[n-1].Sides {
		if s.Value == want || strings.ReplaceAll(s.Value, " ", "_") == want {
			return nil, b.api.KeepMerge(ctx, adminsName+"@"+b.name, ms[n-1].ID, s.Version)
		}
	}
	return nil, fmt.Errorf("no side of it is %q", want)
}

// messages tells what is in a mailbox, and checks that what is here can be played.
func (w *World) messages(args []string) (out []string, err error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "messages bob at B")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	ms, err := b.api.Messages(ctx, w.id(args[0]))
	if err != nil {
		return []string{b.name + ": " + err.Error()}, nil
	}
	if len(ms) == 0 {
		return []string{b.name + ": no messages"}, nil
	}
	for _, m := range ms {
		line := fmt.Sprintf("%s: from %s, %.0f s", b.name, m.FromName, m.Seconds)
		if m.CutOff {
			line += ", cut off"
		}
		if m.Heard {
			line += ", heard"
		}
		if m.Folder != string(site.Inbox) {
			line += ", folder " + m.Folder
		}
		heard, err := w.sounds(ctx, b, w.id(args[0]), m.ID)
		if err != nil {
			heard = err.Error()
		}
		out = append(out, line+", "+heard)
	}
	return out, nil
}

// where tells where a box would ring somebody.
func (w *World) where(args []string) ([]string, error) {
	in, args := option(args, "in")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "where bob at A-b")
	}
	if err != nil {
		return nil, err
	}
	limit := time.Duration(0)
	if in != "" {
		if limit, err = time.ParseDuration(in); err != nil {
			return nil, err
		}
	}
	phones := 0
	_, _ = until(limit, func() error {
		ctx, cancel := within(time.Second)
		defer cancel()
		l, err := b.api.Where(ctx, w.id(args[0]))
		if phones = len(l.Contacts); err == nil && phones == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	return []string{fmt.Sprintf("%s: %d telephones of %s", b.name, phones, args[0])}, nil
}

// lamp tells what a telephone's lamp shows.
func (w *World) lamp(args []string) ([]string, error) {
	if err := need(args, 1, "lamp bob"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	on, fresh, old := p.tel.Lamp()
	is := "off"
	if on {
		is = "on"
	}
	return []string{fmt.Sprintf("%s: lamp %s (%d new, %d old)", args[0], is, fresh, old)}, nil
}

func (w *World) calls(args []string) ([]string, error) {
	if err := need(args, 2, "call alice bob"); err != nil {
		return nil, err
	}
	return w.dial(args[0], args[1])
}

func (w *World) says(args []string) ([]string, error) {
	if err := need(args, 1, "say 12s"); err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return nil, err
	}
	return nil, w.say(d)
}

func (w *World) hangups(args []string) ([]string, error) {
	if err := need(args, 1, "hangup alice"); err != nil {
		return nil, err
	}
	return nil, w.hangup(args[0])
}

// routes, route ana bob at A, tells what would become of a call.
func (w *World) routes(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 2, "route ana bob at A")
	}
	p := w.phones[args[0]]
	if err == nil && p == nil {
		err = fmt.Errorf("%s has no telephone", args[0])
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	r, err := b.api.RouteTest(ctx, p.user.Number, w.number(p, args[1]))
	return r.Steps, err
}

// records tells which calls ended at a box lately.
func (w *World) records(args []string) (out []string, err error) {
	in, args := option(args, "in")
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 0, "records at A in 1h")
	}
	since := time.Hour
	if err == nil && in != "" {
		since, err = time.ParseDuration(in)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	cs, err := b.api.Calls(ctx, since)
	for _, c := range cs {
		line := fmt.Sprintf("%s: %s to %s, %s", b.name, c.From, c.To, c.Cause)
		if c.Diverted != "" {
			line += ", " + c.Diverted
		}
		if c.Answered != nil && c.Ended != nil {
			line += fmt.Sprintf(", %.0f s", c.Ended.Sub(*c.Answered).Seconds())
		}
		out = append(out, line)
	}
	return out, err
}
