package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	page "carrierclass.net/ccnode/internal/web"
)

// web is the interface's listeners: a unix socket for the box itself, HTTPS
// with a token for everybody else.
type web struct {
	servers []*http.Server
	done    chan error
	addrs   []string
	once    sync.Once
	phase   atomic.Pointer[string]
	handler atomic.Pointer[http.Handler] // nil while the box starts
}

// listenWeb opens the listeners; serve starts answering on them.
func listenWeb(cfg config.Config, rand io.Reader, now time.Time) (ls []net.Listener, fingerprint string, err error) {
	defer func() {
		if err != nil {
			for _, l := range ls {
				l.Close()
			}
		}
	}()
	sock := config.Socket(cfg.Data)
	if len(sock) > 100 { // sun_path holds 108 bytes
		return nil, "", fmt.Errorf("data folder %s: its path is too long for the API's socket; choose one under 90 characters", cfg.Data)
	}
	if err := os.Remove(sock); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("remove the old API socket: %w", err)
	}
	l, err := net.Listen("unix", sock)
	if err != nil {
		return nil, "", fmt.Errorf("listen on %s: %w", sock, err)
	}
	ls = append(ls, l)
	if err := os.Chmod(sock, 0o600); err != nil {
		return ls, "", fmt.Errorf("restrict %s: %w", sock, err)
	}
	if cfg.APIListen == "off" {
		return ls, "", nil
	}
	cert, fingerprint, err := certificate(cfg.Data, rand, now, cfg.Listen)
	if err != nil {
		return ls, "", err
	}
	tl, err := net.Listen("tcp", cfg.APIListen)
	if err != nil {
		return ls, "", inUse(err, "HTTPS interface", cfg.APIListen, "--api-listen")
	}
	return append(ls, tls.NewListener(tl, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})), fingerprint, nil
}

// serveWeb answers at once: until open is called, that the box is starting.
func serveWeb(ls []net.Listener, log *slog.Logger) *web {
	w := &web{done: make(chan error, len(ls))}
	h := page.Over(w) // the page is there while the box starts, and says so
	for _, l := range ls {
		s := &http.Server{
			Handler: h, ConnContext: api.Local,
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 64 << 10,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		w.servers = append(w.servers, s)
		switch l.Addr().Network() {
		case "unix":
			w.addrs = append(w.addrs, "unix:"+l.Addr().String())
		default:
			w.addrs = append(w.addrs, "https://"+l.Addr().String())
		}
		go func() { w.done <- s.Serve(l) }() // ends with close, which waits
	}
	return w
}

// doing says what the box is at while it starts.
func (w *web) doing(what string) { w.phase.Store(&what) }

// open lets h answer from now on.
func (w *web) open(h http.Handler) { w.handler.Store(&h) }

// ServeHTTP implements http.Handler.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if h := w.handler.Load(); h != nil {
		(*h).ServeHTTP(rw, r)
		return
	}
	what := "opening its store"
	if p := w.phase.Load(); p != nil {
		what = *p
	}
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.Header().Set("Retry-After", "1")
	rw.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(rw, `{"title":"Service Unavailable","status":503,"detail":%q}`+"\n", "this box is still starting: "+what+"; try again in a moment")
}

// close ends the answering; the second time it does nothing.
func (w *web) close() { w.once.Do(w.shut) }

func (w *web) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, s := range w.servers {
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
	for range w.servers {
		<-w.done
	}
}

// adminToken is the secret that opens the HTTPS interface, made once.
func adminToken(data string, rand io.Reader) (string, error) {
	path := filepath.Join(data, "admin.token")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) >= 32 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the interface's token: %w", err)
	}
	var raw [20]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		return "", fmt.Errorf("draw the interface's token: %w", err)
	}
	t := hex.EncodeToString(raw[:])
	return t, writeFile(path, []byte(t+"\n"))
}

// certificate is the node's own HTTPS certificate, made at first start.
func certificate(data string, rand io.Reader, now time.Time, ips []netip.Addr) (tls.Certificate, string, error) {
	path := filepath.Join(data, "https.pem")
	if b, err := os.ReadFile(path); err == nil {
		if c, err := tls.X509KeyPair(b, b); err == nil {
			return c, fingerprintOf(c), nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make the HTTPS key: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return tls.Certificate{}, "", fmt.Errorf("draw the HTTPS certificate's number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: "ccnode"},
		// A box may wake in 1970: the validity must not depend on its clock.
		NotBefore: time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"},
	}
	for _, ip := range ips {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(rand, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make the HTTPS certificate: %w", err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("store the HTTPS key: %w", err)
	}
	b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb})...)
	if err := writeFile(path, b); err != nil {
		return tls.Certificate{}, "", err
	}
	c, err := tls.X509KeyPair(b, b)
	return c, fingerprintOf(c), err
}

func fingerprintOf(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// writeFile replaces a small file so that a power cut leaves the old or the
// new one, readable by the node's user only.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// inUse turns "address already in use" into what a person can do about it.
func inUse(err error, what, addr, flag string) error {
	switch {
	case isInUse(err):
		return fmt.Errorf("%s: %s is taken by another program on this box; stop that, or choose another with %s", what, addr, flag)
	case isNotHere(err):
		return fmt.Errorf("%s: %s is not an address of this box; choose one with %s", what, addr, flag)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: no permission to use %s; choose a port above 1023 with %s", what, addr, flag)
	}
	return fmt.Errorf("%s: listen on %s: %w", what, addr, err)
}
