package web

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func ask(method, target string, header ...string) *httptest.ResponseRecorder {
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "next", http.StatusNotFound) })
	r := httptest.NewRequest(method, "https://box/", nil)
	r.URL.Path = target
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Over(next).ServeHTTP(w, r)
	return w
}

func TestFilesAreServedAsTheyShould(t *testing.T) {
	for at, kind := range map[string]string{"/": "text/html", "/page.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml"} {
		w := ask("GET", at)
		h := w.Header()
		if w.Code != 200 || !strings.HasPrefix(h.Get("Content-Type"), kind) || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s, %d bytes", at, w.Code, h.Get("Content-Type"), w.Body.Len())
		}
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", at, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v", at, h)
		}
		if h.Get("Cache-Control") != "no-cache" || h.Get("ETag") == "" {
			t.Errorf("%s: it may be cached for ever or never: %v", at, h)
		}
		if again := ask("GET", at, "If-None-Match", h.Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s, asked again: %d, %d bytes", at, again.Code, again.Body.Len())
		}
		if head := ask("HEAD", at); head.Code != 200 || head.Body.Len() != 0 {
			t.Errorf("HEAD %s: %d, %d bytes", at, head.Code, head.Body.Len())
		}
		if post := ask("POST", at); post.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", at, post.Code)
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	for _, at := range []string{"/index.html", "/nothing.js", "/files/page.js", "/web.go", "/../web.go", "/..%2fweb.go", "//page.js", "/./page.js", "/api/v1/status", ""} {
		if w := ask("GET", at); w.Code != http.StatusNotFound || !strings.HasPrefix(w.Body.String(), "next") {
			t.Errorf("%q: %d %.40q", at, w.Code, w.Body)
		}
	}
}

// The page keeps its own law: nothing from elsewhere, nothing inline, no value
// read as HTML, and each file it names is there.
func TestThePageKeepsItsLaw(t *testing.T) {
	bad := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|document\.cookie|(?i)\son[a-z]+="|style="|<style|javascript:`)
	outside := regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]+`)
	names := regexp.MustCompile(`(?:from "\./|src="|href=")([a-z.]+)"`)
	found := 0
	err := fs.WalkDir(files, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "")
		if m := bad.FindString(text); m != "" {
			t.Errorf("%s holds %q", name, m)
		}
		if m := outside.FindString(text); m != "" {
			t.Errorf("%s leads to %q", name, m)
		}
		for _, m := range names.FindAllStringSubmatch(text, -1) {
			found++
			if w := ask("GET", "/"+m[1]); w.Code != 200 {
				t.Errorf("%s wants %s, which is not there", name, m[1])
			}
		}
		if path.Ext(name) == ".html" && regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(text) {
			t.Errorf("%s has an inline script", name)
		}
		return nil
	})
	if err != nil || found < 8 {
		t.Errorf("%d names of files found, %v", found, err)
	}
}

func TestAnUnknownKindOfFileIsSaid(t *testing.T) {
	if _, err := load(fstest.MapFS{"files/index.html": {}, "files/x.exe": {}}); err == nil || !strings.Contains(err.Error(), "x.exe") {
		t.Errorf("%v", err)
	}
	if _, err := load(fstest.MapFS{"files/page.js": {}}); err == nil {
		t.Error("a page without index.html")
	}
}
