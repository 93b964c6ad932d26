package phonetest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A direction is which way media goes, seen from who says it (RFC 8866 §6.7).
type direction uint8

const (
	sendrecv direction = iota
	sendonly
	recvonly
	inactive
)

var directions = [...]string{"sendrecv", "sendonly", "recvonly", "inactive"}

func (d direction) String() string { return directions[d] }
func (d direction) sends() bool    { return d == sendrecv || d == sendonly }
func (d direction) hears() bool    { return d == sendrecv || d == recvonly }

// between is what is left of what we want and what the other end said
// (RFC 3264 §6.1), seen from us.
func between(want, theirs direction) direction {
	sends, hears := want.sends() && theirs.hears(), want.hears() && theirs.sends()
	switch {
	case sends && hears:
		return sendrecv
	case sends:
		return sendonly
	case hears:
		return recvonly
	}
	return inactive
}

// A description is what this phone understands of an SDP (RFC 8866).
type description struct {
	addr  netip.AddrPort // of the audio; invalid if its address is 0.0.0.0
	event uint8          // payload type of telephone-event/8000, 0: none
	dir   direction
	audio int      // which m= line is the one we take, -1: none
	lines []string // the m= lines
}

// parseSDP reads an offer or an answer. Anything that is no SDP is an error; no
// common codec is not.
func parseSDP(b []byte) (d description, err error) {
	d.audio = -1
	session, current := netip.Addr{}, -1
	var host netip.Addr
	port, dir := 0, sendrecv
	events := map[string]uint8{}
	formats := ""
	for line := range strings.SplitSeq(string(b), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			continue
		}
		if len(line) < 2 || line[1] != '=' {
			return d, fmt.Errorf("read SDP: line %q", line)
		}
		value := line[2:]
		switch line[0] {
		case 'm':
			d.lines = append(d.lines, value)
			current++
			f := strings.Fields(value)
			if len(f) < 4 {
				return d, fmt.Errorf("read SDP: m=%s", value)
			}
			n, err := strconv.ParseUint(strings.SplitN(f[1], "/", 2)[0], 10, 16)
			if err != nil {
				return d, fmt.Errorf("read SDP: port in m=%s", value)
			}
			if d.audio < 0 && f[0] == "audio" && f[2] == "RTP/AVP" && n != 0 && has0(f[3:]) {
				d.audio, port, formats = current, int(n), " "+strings.Join(f[3:], " ")+" "
			}
		case 'c':
			f := strings.Fields(value)
			if len(f) != 3 || f[0] != "IN" {
				return d, fmt.Errorf("read SDP: c=%s", value)
			}
			a, err := netip.ParseAddr(strings.SplitN(f[2], "/", 2)[0])
			if err != nil {
				return d, fmt.Errorf("read SDP: c=%s: %w", value, err)
			}
			if current < 0 {
				session = a
			} else if current == d.audio {
				host = a
			}
		case 'a':
			if current >= 0 && current != d.audio {
				continue
			}
			for i, name := range directions {
				if value == name {
					dir = direction(i)
				}
			}
			if pt, name, ok := strings.Cut(strings.TrimPrefix(value, "rtpmap:"), " "); ok && strings.HasPrefix(value, "rtpmap:") &&
				strings.EqualFold(strings.TrimSpace(name), "telephone-event/8000") {
				if n, err := strconv.ParseUint(pt, 10, 7); err == nil {
					events[pt] = uint8(n)
				}
			}
		}
	}
	if current < 0 && !strings.HasPrefix(string(b), "v=0") {
		return d, fmt.Errorf("read SDP: does not begin with v=0")
	}
	if !host.IsValid() {
		host = session
	}
	if d.audio >= 0 && host.IsValid() && !host.IsUnspecified() {
		d.addr = netip.AddrPortFrom(host.Unmap(), uint16(port))
	}
	for pt, n := range events {
		if strings.Contains(formats, " "+pt+" ") {
			d.event = n
		}
	}
	d.dir = dir
	if host.IsUnspecified() && d.audio >= 0 { // hold as in RFC 2543
		d.dir = between(inactive, dir)
	}
	return d, nil
}

func has0(formats []string) bool {
	for _, f := range formats {
		if f == "0" {
			return true
		}
	}
	return false
}

// An sdpWriter makes this end's descriptions of one call.
type sdpWriter struct {
	id      uint64
	version uint64
	host    netip.Addr
	port    int
}

// offer describes our audio; answer does the same for an offer, refusing its
// other media (RFC 3264 §6).
func (w *sdpWriter) offer(dir direction) []byte { return w.write(dir, nil, typeEvent) }

func (w *sdpWriter) answer(to description, dir direction) []byte {
	return w.write(dir, &to, to.event)
}

func (w *sdpWriter) write(dir direction, to *description, event uint8) []byte {
	family := "IP4"
	if w.host.Is6() {
		family = "IP6"
	}
	var b strings.Builder
	w.version++
	fmt.Fprintf(&b, "v=0\r\no=- %d %d IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\n", w.id, w.version, family, w.host, family, w.host)
	audio := func() {
		fmt.Fprintf(&b, "m=audio %d RTP/AVP 0", w.port)
		if event != 0 {
			fmt.Fprintf(&b, " %d", event)
		}
		b.WriteString("\r\na=rtpmap:0 PCMU/8000\r\n")
		if event != 0 {
			fmt.Fprintf(&b, "a=rtpmap:%d telephone-event/8000\r\na=fmtp:%d 0-15\r\n", event, event)
		}
		fmt.Fprintf(&b, "a=ptime:20\r\na=%s\r\n", dir)
	}
	if to == nil {
		audio()
		return []byte(b.String())
	}
	for i, m := range to.lines {
		if i == to.audio {
			audio()
			continue
		}
		f := strings.Fields(m)
		f[1] = "0"
		fmt.Fprintf(&b, "m=%s\r\n", strings.Join(f, " "))
	}
	return []byte(b.String())
}
