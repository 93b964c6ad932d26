package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// fromSiteKey makes a secret that both nodes of a site can make.
func fromSiteKey(k trust.SiteKey, label string) [32]byte {
	m := hmac.New(sha256.New, k[:])
	m.Write([]byte(label))
	return [32]byte(m.Sum(nil))
}

// phoneCA is whom the phones of a site trust: a CA that is made of the site's
// key, octet for octet the same at both nodes, and never leaves them. It is
// good for the addresses of these nodes and for nothing else.
type phoneCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// newPhoneCA makes it. Its validity depends on no clock: a box may wake in
// 1970. It ends with what a UTCTime can say (RFC 5280 §4.1.2.5), which the
// oldest phone reads.
func newPhoneCA(k trust.SiteKey, of site.ID) (*phoneCA, error) {
	key, err := ecdsaFrom(k)
	if err != nil {
		return nil, fmt.Errorf("make the phones' CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "ccnode phones of site " + hex.EncodeToString(of[:4])},
		NotBefore:    time.Unix(0, 0).UTC(), NotAfter: time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, t, t, key.Public(), deterministic{key})
	if err != nil {
		return nil, fmt.Errorf("make the phones' CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the phones' CA: %w", err)
	}
	return &phoneCA{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// ecdsaFrom takes the first number of a row that is a scalar of P-256, which
// all but one in 2^32 are (FIPS 186-5 §A.2.2, testing candidates).
func ecdsaFrom(k trust.SiteKey) (*ecdsa.PrivateKey, error) {
	seed := fromSiteKey(k, "ccnode phone CA 1")
	for i := range byte(8) {
		m := hmac.New(sha256.New, seed[:])
		m.Write([]byte{i})
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), m.Sum(nil)); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("no scalar of P-256 comes of this key")
}

// deterministic signs as RFC 6979 says, so that both nodes make the same
// certificate.
type deterministic struct{ key *ecdsa.PrivateKey }

func (d deterministic) Public() crypto.PublicKey { return d.key.Public() }
func (d deterministic) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return d.key.Sign(nil, digest, opts)
}

// A phoneLeaf is what this node shows its phones. It lives in memory and is
// renewed while the node runs.
type phoneLeaf struct {
	ips  []netip.Addr // set at make, then constant
	rand io.Reader
	now  func() time.Time

	mu   sync.Mutex // guards what follows
	ca   *phoneCA
	cert *tls.Certificate
	made time.Time
}

const (
	leafLife  = 2 * 365 * 24 * time.Hour
	leafRenew = 30 * 24 * time.Hour
)

// clockFloor is a time certainly past: a clock below it was never set.
var clockFloor = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// trust replaces the CA; nil: nothing is shown.
func (l *phoneLeaf) trust(ca *phoneCA) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ca, l.cert = ca, nil
}

// certificate is for tls.Config.GetCertificate: phones name no server, and all
// get the same.
func (l *phoneLeaf) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.Before(clockFloor) {
		now = clockFloor
	}
	if d := now.Sub(l.made); l.cert != nil && d >= 0 && d < leafRenew {
		return l.cert, nil
	}
	if l.ca == nil {
		return nil, fmt.Errorf("show phones a certificate: this node has no key of its site yet")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), l.rand)
	if err != nil {
		return nil, fmt.Errorf("make the key that phones see: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(l.rand, serial); err != nil {
		return nil, fmt.Errorf("draw the number of the certificate that phones see: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and never short
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: l.ips[0].String()}, // some phones compare this alone
		NotBefore:    time.Unix(0, 0).UTC(), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if t.NotAfter.After(l.ca.cert.NotAfter) {
		t.NotAfter = l.ca.cert.NotAfter
	}
	for _, ip := range l.ips {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(l.rand, t, l.ca.cert, key.Public(), l.ca.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate that phones see: %w", err)
	}
	l.cert, l.made = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, now
	return l.cert, nil
}
