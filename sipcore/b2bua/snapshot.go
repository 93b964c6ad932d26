package b2bua

import (
	"cmp"
	"slices"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A CallState is a call as it is now: for people, and to be kept. It holds no
// secret.
type CallState struct {
	Chain    string     `json:"chain"`
	From     site.AOR   `json:"from"`
	To       site.AOR   `json:"to"`
	Began    time.Time  `json:"began"`
	Start    *time.Time `json:"start,omitempty"` // of speech
	Answered string     `json:"answered,omitempty"`
	Diverted string     `json:"diverted,omitempty"`
	Legs     []LegState `json:"legs"`
}

// A LegState is the state of one dialog (RFC 3261 §12).
type LegState struct {
	Caller    bool     `json:"caller,omitempty"`
	State     string   `json:"state"`
	CallID    string   `json:"call_id"`
	LocalTag  string   `json:"local_tag"`
	RemoteTag string   `json:"remote_tag,omitempty"`
	Local     string   `json:"local"`
	Remote    string   `json:"remote"`
	Target    string   `json:"target"`
	Routes    []string `json:"routes,omitempty"`
	LocalSeq  uint32   `json:"local_seq"`
	RemoteSeq uint32   `json:"remote_seq,omitempty"`
	Via       string   `json:"via"`
	SDPLocal  string   `json:"sdp_local,omitempty"`
	SDPRemote string   `json:"sdp_remote,omitempty"`
}

// Calls returns all calls there are, the oldest first.
func (s *Server) Calls() []CallState {
	s.mu.Lock()
	calls := make([]*Call, 0, len(s.calls))
	for c := range s.calls {
		calls = append(calls, c)
	}
	s.mu.Unlock()
	out := make([]CallState, 0, len(calls))
	for _, c := range calls {
		out = append(out, c.Snapshot())
	}
	slices.SortFunc(out, func(a, b CallState) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Chain, b.Chain)) })
	return out
}

// Snapshot is the call as it is now.
func (c *Call) Snapshot() CallState {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := CallState{Chain: c.chain, From: c.from.AOR, To: c.to.AOR, Began: c.began, Answered: c.answer, Diverted: c.diverted}
	if !c.start.IsZero() {
		t := c.start
		st.Start = &t
	}
	for _, l := range c.legs {
		st.Legs = append(st.Legs, l.snapshot())
	}
	return st
}

func (l *Leg) snapshot() LegState {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := LegState{Caller: l.caller, State: l.state.String(), CallID: l.callID, LocalTag: l.localTag, RemoteTag: l.remoteTag,
		Local: l.local.String(), Remote: l.remote.String(), Target: l.target.String(), LocalSeq: l.localSeq, RemoteSeq: l.remoteSeq,
		Via: l.dest.String(), SDPLocal: string(l.said), SDPRemote: string(l.heard)}
	for _, r := range l.routes {
		st.Routes = append(st.Routes, r.String())
	}
	return st
}
