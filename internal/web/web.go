// Package web is the small page of a shop: what the box is at, its phones,
// users, calls and voicemail, for somebody with a browser and the box's token.
//
// Law: the page is part of the program, loads nothing from elsewhere, holds no
// data and knows no door but /api/v1; whoever has no token sees an empty form.
// Standard: Content Security Policy Level 3 without inline script or style.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed files
var files embed.FS

// policy lets the page run its own script and style, speak to its own box, and
// play what it fetched from there. Nobody may frame it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

type file struct {
	kind, tag string
	content   []byte
}

// Over returns a handler that answers GET and HEAD for the page's own files and
// leaves everything else to next. The paths are compared as they are: no path
// leads out of the program.
func Over(next http.Handler) http.Handler {
	pages, err := load(files)
	if err != nil {
		panic(err) // the program was built wrong; each test sees it
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := pages[r.URL.Path]
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "this is a page; read it with GET", http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", f.kind)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache") // asked each time, sent when it changed
		h.Set("ETag", f.tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
	})
}

// load maps what a browser asks for to what it gets.
func load(from fs.FS) (map[string]file, error) {
	out := map[string]file{}
	names, err := fs.Glob(from, "files/*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, fmt.Errorf("read %s of the page: %w", name, err)
		}
		kind := types[path.Ext(name)]
		if kind == "" {
			return nil, fmt.Errorf("%s of the page: no type is known for it", name)
		}
		sum := sha256.Sum256(b)
		at := "/" + path.Base(name)
		if at == "/index.html" {
			at = "/"
		}
		out[at] = file{kind, `"` + hex.EncodeToString(sum[:8]) + `"`, b}
	}
	if _, ok := out["/"]; !ok {
		return nil, fmt.Errorf("the page has no index.html")
	}
	return out, nil
}
