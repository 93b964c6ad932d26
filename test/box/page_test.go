package box

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// The page is there without a token; what it shows is not.
func TestThePageOfTheShop(t *testing.T) {
	b := newBox(t)
	b.up()
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the certificate is the box's own
	get := func(path, token string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+b.ip.String()+":8443"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(text)
	}
	res, text := get("/", "")
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page: %s %v", res.Status, res.Header)
	}
	has(t, "the page", text, "page.js", "admin.token")
	if res, _ := get("/page.js", ""); res.StatusCode != 200 {
		t.Errorf("its script: %s", res.Status)
	}
	if res, text := get("/api/v1/status", ""); res.StatusCode != 401 || strings.Contains(text, "fleet") {
		t.Errorf("without a token the box says %s %s", res.Status, text)
	}
	if res, _ := get("/nothing", ""); res.StatusCode != 404 {
		t.Errorf("what is not there: %s", res.Status)
	}
	if res, text := get("/api/v1/status", strings.TrimSpace(string(b.read("admin.token")))); res.StatusCode != 200 {
		t.Errorf("with the token: %s %s", res.Status, text)
	}
}

// browser is a Chromium that is spoken to over a pipe, in the DevTools
// protocol: one JSON object after the other, each ended by a zero byte.
type browser struct {
	t       *testing.T
	to      *os.File
	from    chan map[string]json.RawMessage
	session string
	n       int
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not installed: test/deps.sh does that")
		}
		t.Skip("chromium is not installed: test/deps.sh does that")
	}
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--ignore-certificate-errors", "--user-data-dir="+folder(t), "--remote-debugging-pipe", "about:blank")
	c.ExtraFiles = []*os.File{theirs, ours}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ours.Close()
	b := &browser{t: t, to: to, from: make(chan map[string]json.RawMessage, 1000)}
	go func() { // ends with the pipe, which ends with the browser
		defer close(b.from)
		var have []byte
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			have = append(have, buf[:n]...)
			for {
				one, rest, ok := bytes.Cut(have, []byte{0})
				if !ok {
					break
				}
				var m map[string]json.RawMessage
				if json.Unmarshal(one, &m) == nil && m["id"] != nil {
					b.from <- m
				}
				have = rest
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		to.Close() // it ends when nobody holds the pipe
		end := time.AfterFunc(5*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		end.Stop()
		from.Close()
	})
	var made struct{ TargetID, SessionID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &made)
	b.call("Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &made)
	b.session = made.SessionID
	return b
}

func (b *browser) call(method string, params map[string]any, into any) {
	b.t.Helper()
	b.n++
	m := map[string]any{"id": b.n, "method": method, "params": params}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatalf("speak to chromium: %v", err)
	}
	for late := time.After(30 * time.Second); ; {
		select {
		case m, ok := <-b.from:
			if !ok {
				b.t.Fatalf("chromium ended at %s", method)
			}
			if string(m["id"]) != fmt.Sprint(b.n) {
				continue
			}
			if m["error"] != nil {
				b.t.Fatalf("%s: %s", method, m["error"])
			}
			if into != nil {
				if err := json.Unmarshal(m["result"], into); err != nil {
					b.t.Fatal(err)
				}
			}
			return
		case <-late:
			b.t.Fatalf("chromium does not answer %s", method)
		}
	}
}

// eval runs an expression in the page and returns its value as text.
func (b *browser) eval(js string) string {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": js, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", js, r.ExceptionDetails.Exception.Description)
	}
	return fmt.Sprint(r.Result.Value)
}

// shows waits until the page's visible text holds all of want.
func (b *browser) shows(want ...string) {
	b.t.Helper()
	eventually(b.t, 15*time.Second, func() error {
		text := b.eval("document.body ? document.body.innerText : ''")
		for _, w := range want {
			if !strings.Contains(text, w) {
				return fmt.Errorf("the page lacks %q:\n%s", w, text)
			}
		}
		return nil
	})
}

// press clicks the first visible button, link or summary with that text.
func (b *browser) press(text string) {
	b.t.Helper()
	eventually(b.t, 10*time.Second, func() error {
		if got := b.eval(fmt.Sprintf(`(() => { for (const e of document.querySelectorAll("button, summary, nav a"))
			if (e.textContent === %q && e.checkVisibility()) { e.click(); return "yes"; } return "no"; })()`, text)); got != "yes" {
			return fmt.Errorf("nothing to press that says %q:\n%s", text, b.eval("document.body.innerText"))
		}
		return nil
	})
}

// write fills the visible field whose label begins with the text.
func (b *browser) write(label, value string) {
	b.t.Helper()
	if got := b.eval(fmt.Sprintf(`(() => { for (const l of document.querySelectorAll("label"))
		if (l.textContent.startsWith(%q) && l.checkVisibility()) { const f = l.control || document.getElementById(l.htmlFor); f.value = %q; return "yes"; } return "no"; })()`, label, value)); got != "yes" {
		b.t.Fatalf("no field %q:\n%s", label, b.eval("document.body.innerText"))
	}
}

func (b *browser) visit(url string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
}

// TestThePageInABrowser does what a shop's owner does, in a real browser on a
// telephone's screen.
func TestThePageInABrowser(t *testing.T) {
	w := startBrowser(t)
	b := newBox(t)
	b.up()
	const name = "Ada <img src=x onerror=alert(1)>"
	ada := as[api.User](b, "user", "create", "201", "--name", name)
	b.user("203")
	b.leave(ada, "203", 1.4)
	if res, err := http.Get("http://" + b.ip.String() + ":8086/p/001565aabbcc.cfg"); err != nil {
		t.Error(err)
	} else {
		res.Body.Close()
	}
	token := strings.TrimSpace(string(b.read("admin.token")))
	at := "https://" + b.ip.String() + ":8443/"
	w.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true}, nil)

	w.visit(at)
	w.shows("Log in")
	w.write("Your password", "wrong")
	w.press("Log in")
	w.shows("this interface wants a token")

	ann := as[api.Admin](b, "admin", "create", "ann")
	w.write("Your name", "ann")
	w.write("Your password", "wrong")
	w.press("Log in")
	w.shows("the name or the password is wrong")
	w.write("Your name", "ann")
	w.write("Your password", ann.Password)
	w.press("Log in")
	w.shows("This box", "as of")
	session := w.eval("sessionStorage.getItem('token')")
	w.press("Log out")
	w.shows("Log in")
	if x := b.cli("--token", session, "whoami"); x.code == 0 || !strings.Contains(x.err, "log in again") {
		t.Errorf("a session that was left: %+v", x)
	}

	w.visit("about:blank")
	w.visit(at + "#token=" + token)
	w.shows("This box", "Its pair", "Lines to the outside", "as of")
	if href := w.eval("location.href"); strings.Contains(href, token) {
		t.Errorf("the token stays in the address: %s", href)
	}
	if left := w.eval("JSON.stringify([localStorage.length, document.cookie])"); left != `[0,""]` {
		t.Errorf("the page keeps more than its session: %s", left)
	}

	w.press("Users")
	w.shows(name) // as text: it is nobody's HTML
	if n := w.eval("document.images.length"); n != "0" {
		t.Errorf("%s images were made of a user's name", n)
	}
	w.press("Create a user")
	w.write("Extension", "202")
	w.write("Name", "Bob")
	w.press("Create")
	w.shows("shown this once", "202 Bob")
	u, err := ask[api.User](b, "GET", "/users/202", nil)
	if err != nil {
		t.Fatal(err)
	}
	password := w.eval(`document.querySelector("#part-users .secret").textContent`)
	if err := b.phone(u, password).Register(t.Context()); err != nil {
		t.Errorf("a phone with the password on the page: %v", err)
	}
	w.press("Create a user")
	w.write("Extension", "201")
	w.press("Create")
	w.shows("already in use", "choose another")

	w.press("Change 202")
	eventually(t, 10*time.Second, func() error {
		if w.eval(`String([...document.querySelectorAll("label")].some((l) => l.textContent === "Forward all calls to"))`) != "true" {
			return fmt.Errorf("no form")
		}
		return nil
	})
	w.write("Forward all calls to", "201")
	w.press("Save")
	w.shows("202 is saved", "all calls to 201")
	if u, err = ask[api.User](b, "GET", "/users/202", nil); err != nil || u.ForwardAll != "201" {
		t.Errorf("the box has %+v, %v", u, err)
	}

	w.press("Change 203")
	w.press("Disable")
	w.shows("203 is disabled")
	if u, err = ask[api.User](b, "GET", "/users/203", nil); err != nil || !u.Disabled {
		t.Errorf("the box has %+v, %v", u, err)
	}

	w.press("Phones")
	w.shows("00:15:65:aa:bb:cc")
	w.press("Adopt this phone")
	w.eval(`for (const s of document.querySelectorAll("#part-phones form select")) s.selectedIndex = 1`)
	w.write("What people call it", "till 1")
	w.press("Adopt")
	w.shows("It is till 1.", "rings for 201")
	w.press("Open for 15 minutes")
	w.shows("Yes, until")
	w.press("Close")
	w.shows("No. Only phones")
	w.press("Calls")
	w.shows("→", "ended", "because: ")
	w.press("Voicemail")
	w.eval(`(async () => { for (let i = 0; i < 200 && !document.querySelector("#part-voicemail select"); i++) await new Promise((r) => setTimeout(r, 20));
		const s = document.querySelector("#part-voicemail select");
		s.selectedIndex = [...s.options].findIndex((o) => o.text.startsWith("203")); s.dispatchEvent(new Event("change")); })()`)
	w.shows("1 message", "· new")
	w.press("Play")
	eventually(t, 10*time.Second, func() error {
		if long := w.eval(`String(document.querySelector("audio")?.duration)`); long < "0.5" || long > "9" {
			return fmt.Errorf("the recording lasts %s s; the page: %s", long, w.eval("document.body.innerText"))
		}
		return nil
	})
	w.press("Trash")
	w.press("Take back")
	w.shows("· inbox")
	w.press("Merges")
	w.shows("None open.")
	edit := func(name, etag string) {
		t.Helper()
		if err := b.client.Do(t.Context(), "PATCH", "/users/202", api.UserPatch{Name: &name}, &api.User{}, etag); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := ask[api.User](b, "GET", "/users/202", nil)
	if err != nil {
		t.Fatal(err)
	}
	edit("Robert", seen.ETag)
	edit("Bobby <b>", seen.ETag) // did not see Robert
	// Nobody touches the page: the box tells it.
	w.shows("Merges (1)", "user 0001202 Bobby <b>: name", "the newest counts", "Robert", "was Bob", "at ")
	if a := b.cli("merges", "list", "-o", "json"); a.code != 0 || !strings.Contains(a.out, "Robert") {
		t.Errorf("merges: %+v", a)
	}
	w.press("Keep this") // the newest is shown first
	w.shows("None open.")
	eventually(t, 3*time.Second, func() error {
		if got := w.eval(`document.querySelector("#to-merges").textContent`); got != "Merges" {
			return fmt.Errorf("the link says %q", got)
		}
		return nil
	})
	w.press("Users")
	w.shows("202 Bobby <b>") // drawn anew
	w.press("Change 202")
	w.press("Who changed 202")
	w.shows("Who changed what", "Robert", "remembers what it saw being overwritten since", "Undo")
	edit("Bobo", "")
	w.press("Changes")
	w.press("Show")
	w.shows("→ Bobo")
	w.press("Undo") // the newest is shown first
	w.shows("Undone.")
	if u, err = ask[api.User](b, "GET", "/users/202", nil); err != nil || u.Name != "Bobby <b>" {
		t.Errorf("after the undo the box has %+v, %v", u, err)
	}
	// What was overwritten since is undone only if a person says so again.
	edit("Barb", "")
	edit("Boris", "")
	w.press("Show")
	w.shows("Barb → Boris")
	w.eval(`[...document.querySelectorAll("#part-changes .card")].find((c) => c.innerText.includes("→ Barb")).querySelector("button").click()`)
	w.shows("it was changed since")
	w.press("Undo it all the same")
	w.shows("Undone.")
	if u, err = ask[api.User](b, "GET", "/users/202", nil); err != nil || u.Name != "Bobby <b>" {
		t.Errorf("after the second undo the box has %+v, %v", u, err)
	}
	w.write("Changes of a number", "nobody's")
	w.press("Show")
	w.shows("nobody's")
	w.press("Box")
	w.shows("Nothing is owed to anybody")
	if wide := w.eval("document.documentElement.scrollWidth <= 360"); wide != "true" {
		t.Errorf("wider than the screen: %s", w.eval("document.documentElement.scrollWidth"))
	}
	w.press("Log out")
	w.shows("Log in")
	if left := w.eval("sessionStorage.length + document.querySelector('main').innerText.trim()"); left != "0" {
		t.Errorf("after logging out there is %q", left)
	}
}

// TestAnotherShopInABrowser: an administrator of the fleet looks at another shop
// from this one's page, and makes a user there.
func TestAnotherShopInABrowser(t *testing.T) {
	w := startBrowser(t)
	b, far := newBox(t), newBox(t)
	b.up()
	far.up("--join", b.invite("--site", "0002").Token)
	far.user("301")
	b.user("201")
	ann := as[api.Admin](b, "admin", "create", "ann", "--fleet")
	w.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true}, nil)
	w.visit("https://" + b.ip.String() + ":8443/")
	w.shows("Log in")
	w.write("Your name", "ann")
	w.write("Your password", ann.Password)
	w.press("Log in")
	w.shows("This box", "as of")
	w.press("Users")
	w.shows("201", "301") // the directory is everywhere
	w.write("Site", "0777")
	w.press("Go")
	w.shows("there is no site")
	w.write("Site", "0002")
	w.press("Go")
	w.shows("You see site 0002", "301")
	if got := w.eval(`document.querySelector("#part-users").innerText`); strings.Contains(got, "201") {
		t.Errorf("the users of site 0002: %s", got)
	}
	w.press("Create a user")
	w.write("Extension", "302")
	w.write("Name", "Cleo")
	w.press("Create")
	w.shows("shown this once", "302 Cleo")
	u, err := ask[api.User](far, "GET", "/users/302", nil)
	if err != nil || u.Name != "Cleo" || !u.AsOf.Here {
		t.Fatalf("at the other shop: %+v, %v", u, err)
	}
	if err := far.phone(u, w.eval(`document.querySelector("#part-users .secret").textContent`)).Register(t.Context()); err != nil {
		t.Errorf("a phone with the password on the page: %v", err)
	}
	if wide := w.eval("document.documentElement.scrollWidth <= 360"); wide != "true" {
		t.Errorf("wider than the screen: %s", w.eval("document.documentElement.scrollWidth"))
	}
	w.write("Site", "")
	w.press("Go")
	w.shows("You see this site", "201")
}
