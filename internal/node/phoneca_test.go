package node

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

func TestPhonesTrustBothNodesOfASite(t *testing.T) {
	k, err := trust.NewSiteKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := site.ID{1, 2, 3}
	a, err := newPhoneCA(k, of)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newPhoneCA(k, of)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.pem, b.pem) {
		t.Error("the two nodes of a site make different CAs")
	}
	k[0] ^= 1
	other, err := newPhoneCA(k, of)
	if err != nil {
		t.Fatal(err)
	}
	if other.key.Equal(a.key) {
		t.Error("another site's key makes the same CA")
	}

	now := time.Date(1970, 1, 1, 0, 5, 0, 0, time.UTC) // no clock yet
	l := &phoneLeaf{ips: []netip.Addr{netip.MustParseAddr("192.168.1.11"), netip.MustParseAddr("fd00::1")}, rand: rand.Reader, now: func() time.Time { return now }}
	if _, err := l.certificate(nil); err == nil {
		t.Error("a certificate without a CA")
	}
	l.trust(a)
	show := func() *x509.Certificate {
		t.Helper()
		c, err := l.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	// A phone that was given b's certificate, at whatever time it thinks it is.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.pem)
	verify := func(name string, at time.Time, pool *x509.CertPool) error {
		_, err := show().Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: at})
		return err
	}
	for _, at := range []time.Time{now, clockFloor, clockFloor.AddDate(1, 6, 0)} {
		for _, name := range []string{"192.168.1.11", "fd00::1"} {
			if err := verify(name, at, roots); err != nil {
				t.Errorf("%s at %v: %v", name, at, err)
			}
		}
	}
	if verify("192.168.1.12", clockFloor, roots) == nil {
		t.Error("good for an address that is not ours")
	}
	strangers := x509.NewCertPool()
	strangers.AddCert(other.cert)
	if verify("192.168.1.11", clockFloor, strangers) == nil {
		t.Error("a phone of another site trusts it")
	}

	first := show().SerialNumber
	now = clockFloor.Add(29 * 24 * time.Hour)
	if show().SerialNumber.Cmp(first) != 0 {
		t.Error("renewed too early")
	}
	now = clockFloor.AddDate(5, 0, 0)
	if show().SerialNumber.Cmp(first) == 0 || verify("fd00::1", now, roots) != nil {
		t.Error("not renewed")
	}
	now = time.Date(2049, 6, 1, 0, 0, 0, 0, time.UTC)
	if end := show().NotAfter; end.After(a.cert.NotAfter) {
		t.Errorf("outlives its CA until %v", end)
	}
	l.trust(other)
	if verify("fd00::1", now, roots) == nil {
		t.Error("the old CA still shows")
	}
}
