package registrar

import (
	"context"
	"errors"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
)

// Visits lets telephones of other sites register here. Their secrets are at
// home: the first time the home site is asked whether the telephone's answer to
// our challenge is right, and it says for how long this site may know the
// telephone by itself, so that refreshes ask nobody.
type Visits interface {
	// Away says whether another site is the home of aor. It answers from memory.
	Away(aor site.AOR) bool

	// Introduce has the home site check credentials. After nil the credential
	// store knows the device. ErrStranger: they are wrong. Any other error: the
	// home site could not be asked.
	Introduce(ctx context.Context, aor site.AOR, method string, c digest.Credentials) error
}

// ErrStranger is Introduce's answer about credentials that are not right.
var ErrStranger = errors.New("the home site does not know this telephone by that password")

// VisitTime is how long a visitor's first registration waits for its home site.
const VisitTime = 3 * time.Second

// visitor says whether a refused request may be that of a visitor, and what its
// home site is to be asked.
func (r *Registrar) visitor(req *sip.Request, aor site.AOR, realm string, who digest.Result) (digest.Credentials, bool) {
	if r.cfg.Visits == nil || who.Verdict != digest.Wrong || !r.cfg.Visits.Away(aor) {
		return digest.Credentials{}, false
	}
	return r.cfg.Digest.Claim(req, "Authorization", realm)
}

// introduce asks the home site and serves the request once more.
func (r *Registrar) introduce(req *sip.Request, f *edge.Flow, aor site.AOR, realm string, c digest.Credentials) {
	ctx, cancel := context.WithTimeout(context.Background(), VisitTime)
	defer cancel()
	err := r.cfg.Visits.Introduce(ctx, aor, string(req.Method), c)
	if err != nil && !errors.Is(err, ErrStranger) {
		// 504: the server that knows could not be reached (RFC 3261 §21.5.5). The
		// telephone stays here and tries again.
		r.log.Warn("A visitor's home site could not be asked", "aor", aor.String(), "err", err)
		r.cfg.Edge.Respond(req, f, 504, "")
		return
	}
	who := r.cfg.Digest.Verify(req, "Authorization", realm, f.Remote.Addr().String(), aor.User, r.fingerprint(req, f))
	if err != nil || who.Verdict != digest.OK {
		r.cfg.Edge.Respond(req, f, 401, "", sip.NewHeader("WWW-Authenticate", r.cfg.Digest.Challenge(realm, who)))
		return
	}
	r.finish(req, f, aor, who)
}
