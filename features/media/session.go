package media

import (
	"time"

	"github.com/pion/rtp"
)

// A Session is the feature's end of a leg.
type Session struct{ p *Port }

func (s *Session) receive(_ *flow, _ *rtp.Packet, _ time.Time) {}
func (s *Session) end()                                        {}
