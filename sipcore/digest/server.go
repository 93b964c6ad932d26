package digest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/message"
)

// Config of a Server. Key and Store are needed.
type Config struct {
	Key   [32]byte            // of nonces; the nodes of a pair share one
	Epoch uint16              // of Key; another epoch's nonces are stale
	Store sipcore.Credentials // who there is

	Life time.Duration // of a nonce; default 5 min

	// Shared is how long after it was made a nonce of the pair's other node
	// is taken here. Within that time, what was sent there can be replayed
	// here by who overheard it; the default 0 answers such nonces stale=true
	// instead, which costs the phone one more round trip when it changes nodes.
	Shared time.Duration

	Now  func() time.Time // default time.Now
	Rand io.Reader        // default crypto/rand.Reader
}

// A Server verifies requests. It is safe for concurrent use.
type Server struct {
	cfg    Config
	issuer atomic.Pointer[issuer]
	uses   uses
	Guard  *Guard // counts wrong passwords
	dummy  sipcore.Credential
	macs   sync.Pool // of hash.Hash, HMAC with Key
}

// An issuer tells the nonces of one Server from those of the pair's other
// node, and differs at every start: what was used before a restart is stale.
type issuer struct {
	own  [4]byte
	past [][4]byte // what it was before the clock was set back: always stale
}

// NewServer makes a Server.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Life == 0 {
		cfg.Life = 5 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	s := &Server{cfg: cfg, Guard: NewGuard(cfg.Now)}
	s.macs.New = func() any { return hmac.New(sha256.New, cfg.Key[:]) }
	var b [36]byte
	if _, err := io.ReadFull(cfg.Rand, b[:]); err != nil {
		return nil, fmt.Errorf("read random bytes for nonces: %w", err)
	}
	s.issuer.Store(&issuer{own: [4]byte(b[:4])})
	s.dummy.HA1MD5 = string(sum(nil, MD5, string(b[4:])))
	s.dummy.HA1SHA256 = string(sum(nil, SHA256, string(b[4:])))
	s.uses.init()
	return s, nil
}

// A Verdict is what became of a request's credentials.
type Verdict uint8

const (
	Missing Verdict = iota // none for this realm: challenge
	Wrong                  // refused: challenge again, saying nothing more
	Stale                  // right, but the nonce is too old or was used: challenge with stale
	OK
)

func (v Verdict) String() string { return [...]string{"missing", "wrong", "stale", "ok"}[v] }

// A Result says who sent a request, if the Verdict is OK.
type Result struct {
	Verdict
	Username   string
	Credential sipcore.Credential
	SHA256     bool // challenge with SHA-256
}

// nonce layout: seconds(4) epoch(2) issuer(4) random(6) mac(14), base64url.
const (
	nonceBody = 16
	nonceSize = 30
)

func (s *Server) mac(dst []byte, body []byte, realm string) []byte {
	m := s.macs.Get().(hash.Hash)
	m.Reset()
	m.Write(body)
	io.WriteString(m, realm)
	dst = m.Sum(dst)
	s.macs.Put(m)
	return dst
}

func (s *Server) nonce(realm string) string {
	var b [nonceBody + sha256.Size]byte
	now := uint32(s.cfg.Now().Unix())
	if s.uses.behind(now) {
		s.startOver(now)
	}
	binary.BigEndian.PutUint32(b[:], now)
	binary.BigEndian.PutUint16(b[4:], s.cfg.Epoch)
	is := s.issuer.Load()
	copy(b[6:], is.own[:])
	if _, err := io.ReadFull(s.cfg.Rand, b[10:nonceBody]); err != nil {
		panic("no randomness for nonces: " + err.Error())
	}
	s.mac(b[nonceBody:nonceBody], b[:nonceBody], realm)
	return base64.RawURLEncoding.EncodeToString(b[:nonceSize])
}

// startOver is for a clock that was set back: new nonces would look as old as
// those that were forgotten, and nobody could register or call until it has
// caught up. What was made before is stale from now on.
func (s *Server) startOver(now uint32) {
	var b [4]byte
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		panic("no randomness for nonces: " + err.Error())
	}
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if s.uses.floor <= now { // somebody was faster
		return
	}
	old := s.issuer.Load()
	past := append([][4]byte{old.own}, old.past...)
	s.issuer.Store(&issuer{b, past[:min(len(past), 16)]})
	s.uses.init()
	s.uses.at, s.uses.floor = 0, 0
}

// fresh says whether nonce was made here lately.
func (s *Server) fresh(nonce, realm string) (id nonceID, ok bool) {
	if len(nonce) != base64.RawURLEncoding.EncodedLen(nonceSize) {
		return id, false
	}
	var b [nonceSize]byte
	if n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(nonce)); err != nil || n != nonceSize {
		return id, false
	}
	var m [sha256.Size]byte
	s.mac(m[:0], b[:nonceBody], realm)
	if !hmac.Equal(m[:nonceSize-nonceBody], b[nonceBody:]) {
		return id, false
	}
	copy(id[:], b[:nonceBody])
	life := s.cfg.Life
	switch is, by := s.issuer.Load(), [4]byte(b[6:10]); {
	case by == is.own:
	case slices.Contains(is.past, by):
		life = 0
	default:
		life = s.cfg.Shared
	}
	age := time.Duration(s.cfg.Now().Unix()-int64(binary.BigEndian.Uint32(b[:]))) * time.Second
	return id, life > 0 && age >= -2*time.Second && age <= life && binary.BigEndian.Uint16(b[4:]) == s.cfg.Epoch
}

// Challenge makes the header value that answers a result other than OK.
func (s *Server) Challenge(realm string, r Result) string {
	c := Challenge{Realm: realm, Nonce: s.nonce(realm), Algorithm: MD5, QOPAuth: true, Stale: r.Verdict == Stale}
	if r.SHA256 {
		c.Algorithm = SHA256
	}
	return c.Header()
}

// Verify checks the credentials of req for realm; header is Authorization or
// Proxy-Authorization. source names where it came from (an address, no port),
// fingerprint tells a retransmission of the same request, which is OK again,
// from a replay; 0 where retransmissions do not get here. hint is a name under
// which the device may be stored, to choose the algorithm of a first challenge.
func (s *Server) Verify(req *sip.Request, header, realm, source, hint string, fingerprint uint64) Result {
	c, found := find(req, header, realm)
	if !found {
		var r Result
		for _, d := range s.cfg.Store.Credentials(hint, realm) {
			r.SHA256 = r.SHA256 || d.SHA256
		}
		return r
	}
	r := Result{Verdict: Wrong, Username: strings.Clone(c.Username)}
	allowed := s.Guard.Allow(c.Username, source)
	right := false
	stored := s.cfg.Store.Credentials(c.Username, realm)
	for _, d := range stored {
		r.SHA256 = r.SHA256 || d.SHA256
		if Matches(d, c, string(req.Method)) && !right {
			right, r.Credential = true, d
		}
	}
	if len(stored) == 0 { // the same work for a user who is not there
		Matches(s.dummy, c, string(req.Method))
	}
	id, fresh := s.fresh(c.Nonce, realm)
	if !right || !allowed || !sameURI(c.URI, &req.Recipient) {
		s.Guard.Failed(c.Username, source)
		r.Credential = sipcore.Credential{}
		return r
	}
	if r.Credential.SHA256 && !strings.EqualFold(c.Algorithm, SHA256) {
		r.Verdict, r.Credential = Stale, sipcore.Credential{} // right, but by the weaker hash: once more
		return r
	}
	nc := uint64(1)
	if c.QOP != "" {
		nc, _ = strconv.ParseUint(c.NC, 16, 32) // 0 is never accepted
	}
	if !fresh || !s.uses.take(id, uint32(nc), c.QOP == "", fingerprint, s.cfg.Now()) {
		r.Verdict, r.Credential = Stale, sipcore.Credential{}
		return r
	}
	s.Guard.Succeeded(c.Username, source)
	r.Verdict = OK
	return r
}

// find picks the Digest credentials for realm among all there are.
func find(req *sip.Request, header, realm string) (Credentials, bool) {
	for _, h := range req.Headers() {
		if !strings.EqualFold(h.Name(), header) {
			continue
		}
		if c, err := ParseCredentials(h.Value()); err == nil && c.Realm == realm {
			return c, true
		}
	}
	return Credentials{}, false
}

// Claim returns the credentials of req for realm, if they answer a nonce of
// ours that is fresh, for this request: what another site may be asked to
// check, which has the secret.
func (s *Server) Claim(req *sip.Request, header, realm string) (Credentials, bool) {
	c, ok := find(req, header, realm)
	if !ok || !sameURI(c.URI, &req.Recipient) {
		return Credentials{}, false
	}
	_, fresh := s.fresh(c.Nonce, realm)
	return c, fresh
}

// Matches says whether credentials were made with the secret d for a request of
// that method (RFC 7616 §3.4.1). It compares in constant time; the amount of
// work depends only on c. Whether the nonce is one of ours it does not ask.
func Matches(d sipcore.Credential, c Credentials, method string) bool {
	ha1, algorithm := d.HA1MD5, MD5
	switch {
	case strings.EqualFold(c.Algorithm, SHA256):
		ha1, algorithm = d.HA1SHA256, SHA256
	case c.Algorithm != "" && !strings.EqualFold(c.Algorithm, MD5):
		ha1 = ""
	}
	ok := ha1 != "" && !c.Userhash && (c.QOP == "" || c.QOP == "auth")
	var buf [64]byte
	want := response(buf[:0], algorithm, ha1, method, c.URI, c.Nonce, c.NC, c.CNonce, c.QOP)
	var got [64]byte
	n := copy(got[:], c.Response)
	for i := range got[:n] { // some phones print upper-case hex
		if got[i] >= 'A' && got[i] <= 'F' {
			got[i] |= 0x20
		}
	}
	return subtle.ConstantTimeCompare(want, got[:n]) == 1 && len(c.Response) == n && ok
}

// sameURI says whether digest-uri can be for what the request asks: phones,
// proxies and SIPp write another host, port or parameters there, or leave the
// user out, but credentials made for one number must not serve for another
// (RFC 3261 §22.4, RFC 7616 §3.4.6).
func sameURI(uri string, r *sip.Uri) bool {
	u, err := message.ParseURI(uri)
	if err != nil {
		return false
	}
	if r.Raw() != "" || u.Raw() != "" {
		return strings.EqualFold(u.Scheme, r.Scheme) && u.Raw() == r.Raw()
	}
	return u.User == "" || u.User == r.User
}
