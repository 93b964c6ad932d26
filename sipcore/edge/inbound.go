package edge

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
)

// receive takes one whole message through the gate to the handler. It returns
// false when a stream that carries such a thing should be closed.
func (e *Edge) receive(raw []byte, f *Flow) (ok bool) {
	var req *sip.Request
	defer func() {
		if r := recover(); r != nil {
			e.cfg.Count("panic")
			e.log.Error("A SIP message made a handler panic", "from", f.String(), "err", fmt.Sprint(r), "stack", string(debug.Stack()))
			if req != nil && req.Method != sip.ACK {
				e.Respond(req, f, 500, "")
			}
			ok = true
		}
	}()
	msg, fault := message.Parse(raw, f.Transport.Reliable())
	if fault != nil {
		e.refuse(fault, f)
		return fault.Status != 0
	}
	switch msg := msg.(type) {
	case *sip.Request:
		req = msg
		f.stamp(req.Via())
		if tags := e.unsupported(req); len(tags) > 0 {
			e.cfg.Count("420")
			e.Respond(req, f, 420, "", sip.NewHeader("Unsupported", strings.Join(tags, ", ")))
			return true
		}
		e.handler.HandleRequest(req, f, raw)
	case *sip.Response:
		e.handler.HandleResponse(msg, f)
	}
	return true
}

// refuse answers a malformed request without keeping anything of it.
func (e *Edge) refuse(fault *message.Fault, f *Flow) {
	e.cfg.Count("refused")
	e.log.Debug("SIP message refused", "from", f.String(), "err", fault)
	answer, via := fault.Answer(f.Remote, e.random(6))
	if answer == nil {
		return
	}
	f.reply = f.Remote
	if via != nil {
		f.stamp(via)
	}
	if err := e.Write(answer, f.Reply()); err != nil {
		e.log.Debug("Refusal not sent", "to", f.String(), "err", err)
	}
}

// unsupported lists the option-tags of Require and Proxy-Require that we do
// not understand (RFC 3261 §8.2.2.3). ACK and CANCEL are exempt.
func (e *Edge) unsupported(req *sip.Request) []string {
	if req.Method == sip.ACK || req.Method == sip.CANCEL {
		return nil
	}
	var out []string
	for _, name := range [...]string{"Require", "Proxy-Require"} {
		for _, tag := range message.Values(req, name) {
			if !slices.ContainsFunc(e.cfg.Supported, func(s string) bool { return strings.EqualFold(s, tag) }) {
				out = append(out, strings.Map(printable, tag))
			}
		}
	}
	return out
}

func printable(r rune) rune {
	if r <= ' ' || r > '~' {
		return -1
	}
	return r
}
