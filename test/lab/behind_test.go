package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// kept is what a box behind a router says of the connection that it keeps.
type kept struct {
	every   time.Duration
	found   bool // it has met an interval that is too long
	perHour int
	so      int // keep-alives so far
}

var keptLine = regexp.MustCompile(`reachable through relay \S+: one keep-alive every (\S+) \((.*?)\), about (\d+) bytes an hour; (\d+) so far`)

func keeps(t *testing.T, n *labkit.Node) (k kept, ok bool) {
	t.Helper()
	m := keptLine.FindStringSubmatch(strings.Join(n.Status().Warnings, "\n"))
	if m == nil {
		return k, false
	}
	var err error
	if k.every, err = time.ParseDuration(m[1]); err != nil {
		t.Fatal(err)
	}
	k.found = strings.Contains(m[2], "too long")
	k.perHour, _ = strconv.Atoi(m[3])
	k.so, _ = strconv.Atoi(m[4])
	return k, true
}

// behindRouters: four shops; c and d are behind routers that forget a TCP
// connection on which nothing comes. c begins with an interval that works and
// d with one that does not.
func behindRouters(t *testing.T, takesUp bool) {
	memory := long(8*time.Second, 60*time.Second)
	l := labkit.New(t, "a", "b", "c", "d")
	for _, s := range []string{"c", "d"} {
		l.Masquerade(s)
		l.Forgets(s, memory, takesUp)
	}
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	hidden := func(site, name, code string, first time.Duration) *labkit.Node {
		n := l.Host(site, name).Box("--behind-nat", "--keep-alive", first.String())
		n.Up("--join", a1.Invite("--site", code).Token)
		return n
	}
	begun := time.Now()
	c1 := hidden("c", "c1", "0003", memory*5/8)
	d1 := hidden("d", "d1", "0004", memory*10/8)
	bob := registered(t, l.Host("b", "phones-b"), b1.Account(b1.User("201", "--name", "Bob"), 60), 1000)
	cleo := registered(t, l.Host("c", "phones-c"), c1.Account(c1.User("201", "--name", "Cleo"), 60), 440)
	l.AwaitSettled(30*time.Second, a1, b1, c1, d1)

	settled := func(n *labkit.Node) (k kept) {
		l.Within(memory*8, n.Host.Name+" knows what its router remembers", func() bool {
			var ok bool
			k, ok = keeps(t, n)
			return ok && k.found && k.every < memory && k.so > 1
		})
		t.Logf("%s keeps one connection alive every %v after %v; the router forgets after %v", n.Host.Name, k.every, time.Since(begun).Round(time.Second), memory)
		if k.every < memory/2 {
			t.Errorf("%s could ask less often than every %v", n.Host.Name, k.every)
		}
		return k
	}
	settled(c1)
	settled(d1)

	// Nothing but the keep-alives, and they cost what the box says.
	before, kc, kd := l.Wan(), first(keeps(t, c1)), first(keeps(t, d1))
	time.Sleep(memory * 9 / 4)
	lc, ld := first(keeps(t, c1)), first(keeps(t, d1))
	d := l.Wan().Since(before)
	for _, x := range []struct {
		site          string
		before, after kept
	}{{"c", kc, lc}, {"d", kd, ld}} {
		both := d[[2]string{"a", x.site}].All().Bytes + d[[2]string{x.site, "a"}].All().Bytes
		times := int64(x.after.so - x.before.so)
		if times < 2 || both == 0 {
			t.Fatalf("site %s: %d keep-alives, %d octets of IP", x.site, times, both)
		}
		says := int64(x.after.perHour) * int64(x.after.every) / int64(time.Hour)
		t.Logf("site %s: %d keep-alives, %d octets of IP each, the box says %d and %d an hour", x.site, times, both/times, says, x.after.perHour)
		if each := both / times; each*10 > says*13 || each*13 < says*10 {
			t.Errorf("site %s: one keep-alive costs %d octets; the box says %d", x.site, each, says)
		}
	}
	for way, x := range d {
		if a := way[0] == "a" || way[1] == "a"; (!a || way[0] == "b" || way[1] == "b") && x.All().Packets != 0 {
			t.Errorf("between %v meanwhile: %+v", way, x.All())
		}
	}

	// Each other link is forgotten by now. An edit gets there, from the relay and
	// from another shop, and a call.
	for i, from := range []*labkit.Node{a1, b1} {
		was := c1.Prints("fleet")
		start := time.Now()
		from.User(fmt.Sprint(310+i), "--name", "New")
		want := ""
		l.Within(15*time.Second, "the shops behind routers hear of "+from.Host.Name+"'s edit", func() bool {
			want = from.Prints("fleet")
			return want != was && c1.Prints("fleet") == want && d1.Prints("fleet") == want
		})
		t.Logf("an edit at %s is at the shops behind routers after %v", from.Host.Name, time.Since(start).Round(10*time.Millisecond))
		if i == 0 {
			time.Sleep(memory * 5 / 4)
		}
	}
	start, mark := time.Now(), cleo.Mark()
	bob.Dial("0003201")
	cleo.Await(mark, "CALL_INCOMING", 8*time.Second)
	t.Logf("a call from b rings at c after %v", time.Since(start).Round(10*time.Millisecond))
	bm := bob.Mark()
	cleo.Accept()
	bob.Await(bm, "CALL_ESTABLISHED", 5*time.Second)
	talk(t, bob, cleo)
	hangUp(t, bob, cleo)

	// The relay restarts: the box comes back to it.
	a1.Kill()
	a1.Up()
	took := l.Within(memory*2+30*time.Second, "c1 has a relay again", func() bool {
		var st api.Status
		if a1.Get("/status", &st) != nil {
			return false
		}
		k, ok := keeps(t, c1)
		return ok && k.found && k.every < memory
	})
	t.Logf("after the relay's restart it holds a connection again after %v", took.Round(10*time.Millisecond))
}

func first[T any](x T, _ bool) T { return x }

// The router takes up what it forgot with the next packet from inside, as Linux
// does: what the box sends itself gets through then, and proves nothing.
func TestBehindRouters(t *testing.T) { behindRouters(t, true) }

// The router swallows what it forgot.
func TestBehindForgetfulRouters(t *testing.T) {
	if long(0, 1) == 0 {
		t.Skip("CCNODE_LONG=1")
	}
	behindRouters(t, false)
}
