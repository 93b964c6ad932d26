package provision

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// authority makes a CA and a certificate of it for 127.0.0.1.
func authority(t testing.TB) (ca []byte, leaf tls.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	root, own := key(), key()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Shop CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, root.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	leafTmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node a"},
		NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leafTmpl, tmpl, own.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: own}
}

// rig is a node's provisioning on the loopback, with a clock one can set.
type rig struct {
	*Service
	group netip.AddrPort

	mu     sync.Mutex
	now    time.Time
	phones map[MAC]*Phone
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func lan(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range []netip.Prefix{loopback, netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("192.168.2.0/24")} {
		if p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func newRig(t testing.TB, phones ...*Phone) *rig {
	t.Helper()
	ca, leaf := authority(t)
	r := &rig{now: today, phones: map[MAC]*Phone{}}
	for _, p := range phones {
		r.phones[p.MAC] = p
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	plain, secure := listen(), listen()
	var err error
	r.Service, err = New(Config{
		Now: r.clock, Rand: rand.Reader, CA: ca, Key: make([]byte, 32), LAN: lan,
		HTTP: netip.MustParseAddrPort(plain.Addr().String()), HTTPS: netip.MustParseAddrPort(secure.Addr().String()),
		Phone: func(_ context.Context, m MAC) (*Phone, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if p := r.phones[m]; p != nil {
				c := *p
				return &c, nil
			}
			return nil, fmt.Errorf("phone %s: %w", m, ErrUnknown)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := NewServer(r.HTTP(), nil)
	hs := NewServer(r.HTTPS(), &tls.Config{Certificates: []tls.Certificate{leaf}})
	h.ErrorLog, hs.ErrorLog = log.New(io.Discard, "", 0), log.New(io.Discard, "", 0)
	go h.Serve(plain)
	go hs.ServeTLS(secure, "", "")
	group, own := udp(t), udp(t)
	r.group = netip.MustParseAddrPort(group.LocalAddr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ServePnP(ctx, group, own) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.Close()
		hs.Close()
	})
	return r
}

func udp(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func body(t testing.TB, r *http.Response) []byte {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, MaxFile))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
