package media

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// Bounds on a description from outside.
const (
	maxSDP    = 16 << 10
	maxMedia  = 32
	maxCodecs = 48
)

// direction of a stream as its description says it (RFC 8866 §6.7), in two bits.
type direction uint8

const (
	inactive direction = 0
	sendonly direction = 1
	recvonly direction = 2
	sendrecv direction = 3
)

var directionNames = [...]string{"inactive", "sendonly", "recvonly", "sendrecv"}

func (d direction) String() string { return directionNames[d&3] }

// reverse is the same direction seen from the other end.
func (d direction) reverse() direction { return d>>1&1 | d<<1&2 }

// codec is one payload type of a stream.
type codec struct {
	pt       uint8
	name     string
	rate     uint32
	channels string // "" is one
	fmtp     string
}

// key is what must be equal for two ends to mean the same encoding.
func (c codec) key() string {
	ch := c.channels
	if ch == "1" {
		ch = ""
	}
	return strings.ToLower(c.name) + "/" + strconv.FormatUint(uint64(c.rate), 10) + "/" + ch
}

// aux is true of formats that carry no speech of their own.
func (c codec) aux() bool {
	return strings.EqualFold(c.name, "telephone-event") || strings.EqualFold(c.name, "CN")
}

func (c codec) rtpmap() string {
	s := fmt.Sprintf("a=rtpmap:%d %s/%d", c.pt, c.name, c.rate)
	if c.channels != "" && c.channels != "1" {
		s += "/" + c.channels
	}
	return s
}

// static payload types of RFC 3551 §6 that are audio.
var static = map[uint8]codec{
	0: {0, "PCMU", 8000, "", ""}, 3: {3, "GSM", 8000, "", ""}, 4: {4, "G723", 8000, "", ""},
	5: {5, "DVI4", 8000, "", ""}, 6: {6, "DVI4", 16000, "", ""}, 7: {7, "LPC", 8000, "", ""},
	8: {8, "PCMA", 8000, "", ""}, 9: {9, "G722", 8000, "", ""}, 10: {10, "L16", 44100, "2", ""},
	11: {11, "L16", 44100, "", ""}, 12: {12, "QCELP", 8000, "", ""}, 13: {13, "CN", 8000, "", ""},
	14: {14, "MPA", 90000, "", ""}, 15: {15, "G728", 8000, "", ""}, 16: {16, "DVI4", 11025, "", ""},
	17: {17, "DVI4", 22050, "", ""}, 18: {18, "G729", 8000, "", ""},
}

// own is what a feature can speak: G.711 both laws and keys.
func own() stream {
	return stream{dir: sendrecv, ptime: "20", codecs: []codec{
		static[0], static[8], {101, "telephone-event", 8000, "", "0-15"},
	}}
}

// stream is one m= section.
type stream struct {
	media, proto string
	formats      string // as they came, for a line we reject
	port         int
	addr         netip.Addr // unspecified: the old hold of RFC 2543; invalid: a name
	rtcp         netip.AddrPort
	dir          direction
	codecs       []codec
	ptime        string
	maxptime     string
}

// description is what we understand of an SDP (RFC 8866).
type description struct {
	origin  string // value of o=
	streams []stream
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("session description: %s: %w", fmt.Sprintf(format, args...), site.BadRequest)
}

// parse reads an SDP. Attributes we do not understand are passed over; lines
// that say where to send are read strictly.
func parse(b []byte) (*description, error) {
	if len(b) > maxSDP {
		return nil, malformed("%d bytes, the limit is %d", len(b), maxSDP)
	}
	d := &description{}
	var (
		cur         *stream
		addr        netip.Addr // session level
		hasAddr     bool
		lineHasAddr bool
		dir         = sendrecv
		pending     pendingStream
	)
	finish := func() error {
		if cur == nil {
			return nil
		}
		if !lineHasAddr {
			if !hasAddr && cur.port != 0 {
				return malformed("m=%s has no c= line", cur.media)
			}
			cur.addr = addr
		}
		pending.resolve(cur)
		return nil
	}
	text := strings.TrimRight(string(b), "\r\n \x00")
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if len(line) < 2 || line[1] != '=' || strings.ContainsAny(line, "\r\x00") {
			return nil, malformed("line %d is not type=value", i+1)
		}
		kind, value := line[0], line[2:]
		switch {
		case i == 0:
			if line != "v=0" {
				return nil, malformed("first line is not v=0")
			}
		case kind == 'o' && cur == nil:
			if len(strings.Fields(value)) != 6 {
				return nil, malformed("o= line wants six fields")
			}
			d.origin = value
		case kind == 'c':
			a, err := connection(value)
			if err != nil {
				return nil, err
			}
			if cur == nil {
				addr, hasAddr = a, true
			} else if !lineHasAddr { // of several, the first is ours (RFC 8866 §5.7)
				cur.addr, lineHasAddr = a, true
			}
		case kind == 'm':
			if err := finish(); err != nil {
				return nil, err
			}
			if len(d.streams) == maxMedia {
				return nil, malformed("more than %d m= lines", maxMedia)
			}
			s, err := mediaLine(value)
			if err != nil {
				return nil, err
			}
			s.dir = dir
			d.streams = append(d.streams, s)
			cur, lineHasAddr, pending = &d.streams[len(d.streams)-1], false, pendingStream{}
		case kind == 'a':
			name, arg, _ := strings.Cut(value, ":")
			switch name {
			case "sendrecv", "sendonly", "recvonly", "inactive":
				v := directionOf(name)
				if cur == nil {
					dir = v
				} else {
					cur.dir = v
				}
			default:
				if cur != nil {
					pending.attribute(cur, name, arg)
				}
			}
		}
	}
	if err := finish(); err != nil {
		return nil, err
	}
	if d.origin == "" {
		return nil, malformed("no o= line")
	}
	return d, nil
}

func directionOf(name string) direction {
	for i, n := range directionNames {
		if n == name {
			return direction(i) // #nosec G115: four names
		}
	}
	return sendrecv
}

func connection(value string) (netip.Addr, error) {
	f := strings.Fields(value)
	if len(f) != 3 || f[0] != "IN" || (f[1] != "IP4" && f[1] != "IP6") {
		return netip.Addr{}, malformed("c=%.40s", value)
	}
	host, _, _ := strings.Cut(f[2], "/")
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, nil // a name: the first packet tells where it is
	}
	if a = a.Unmap().WithZone(""); a.Is6() != (f[1] == "IP6") {
		return netip.Addr{}, malformed("c=%.40s", value)
	}
	return a, nil
}

func mediaLine(value string) (stream, error) {
	f := strings.Fields(value)
	if len(f) < 4 {
		return stream{}, malformed("m=%.40s wants four fields", value)
	}
	port, _, _ := strings.Cut(f[1], "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return stream{}, malformed("port in m=%.40s", value)
	}
	return stream{media: f[0], port: int(n), proto: f[2], formats: strings.Join(f[3:], " ")}, nil
}

// pendingStream gathers the attributes of the stream being read.
type pendingStream struct {
	rtpmap map[uint8]codec
	fmtp   map[uint8]string
	rtcp   string
}

func (p *pendingStream) attribute(s *stream, name, arg string) {
	pt, rest, _ := strings.Cut(arg, " ")
	rest = strings.TrimSpace(rest)
	switch name {
	case "rtpmap":
		n, err := strconv.ParseUint(pt, 10, 7)
		f := strings.Split(rest, "/")
		if err != nil || len(f) < 2 || f[0] == "" {
			return
		}
		rate, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil || rate == 0 || rate > 384000 {
			return
		}
		c := codec{pt: uint8(n), name: f[0], rate: uint32(rate)}
		if len(f) > 2 {
			c.channels = f[2]
		}
		if p.rtpmap == nil {
			p.rtpmap = make(map[uint8]codec)
		}
		p.rtpmap[c.pt] = c
	case "fmtp":
		if n, err := strconv.ParseUint(pt, 10, 7); err == nil {
			if p.fmtp == nil {
				p.fmtp = make(map[uint8]string)
			}
			p.fmtp[uint8(n)] = rest
		}
	case "ptime", "maxptime":
		if n, err := strconv.ParseFloat(pt, 64); err == nil && n > 0 && n <= 1000 {
			if name == "ptime" {
				s.ptime = pt
			} else {
				s.maxptime = pt
			}
		}
	case "rtcp": // RFC 3605
		p.rtcp = arg
	}
}

// resolve turns the format list and the attributes into codecs, and finds
// where RTCP goes.
func (p *pendingStream) resolve(s *stream) {
	if s.rtp() {
		seen := make(map[uint8]bool)
		for _, f := range strings.Fields(s.formats) {
			n, err := strconv.ParseUint(f, 10, 7)
			if err != nil || seen[uint8(n)] || len(s.codecs) == maxCodecs {
				continue
			}
			pt := uint8(n)
			c, ok := p.rtpmap[pt]
			if !ok {
				if c, ok = static[pt]; !ok {
					continue // a dynamic number that nobody explained
				}
			}
			switch strings.ToLower(c.name) {
			case "red", "rtx", "ulpfec", "flexfec": // they carry other payload type numbers inside
				continue
			}
			c.fmtp = p.fmtp[pt]
			seen[pt] = true
			s.codecs = append(s.codecs, c)
		}
	}
	if s.port != 0 && s.addr.IsValid() {
		s.rtcp = netip.AddrPortFrom(s.addr, uint16(min(s.port+1, 65535))) // #nosec G115: bounded
		port, rest, _ := strings.Cut(p.rtcp, " ")
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 {
			at := s.addr
			if a, err := connection(rest); err == nil && a.IsValid() {
				at = a
			}
			s.rtcp = netip.AddrPortFrom(at, uint16(n))
		}
	}
}

// rtp is true of plain RTP (RFC 3551, 4585). SRTP lines are refused so far.
func (s *stream) rtp() bool { return s.proto == "RTP/AVP" || s.proto == "RTP/AVPF" }

// usable is true of an audio stream that we can carry.
func (s *stream) usable() bool {
	if s.media != "audio" || s.port == 0 || !s.rtp() {
		return false
	}
	for _, c := range s.codecs {
		if !c.aux() {
			return true
		}
	}
	return false
}

// held is true of RFC 2543's way to say "do not send": c=0.0.0.0.
func (s *stream) held() bool { return s.addr.IsValid() && s.addr.IsUnspecified() }

// wants is the stream's direction, with the old hold translated.
func (s *stream) wants() direction {
	if s.held() {
		return s.dir & sendonly
	}
	return s.dir
}

// audio finds the first stream we can carry; prefer comes first if it fits.
func (d *description) audio(prefer int) (int, error) {
	if prefer >= 0 && prefer < len(d.streams) && d.streams[prefer].usable() {
		return prefer, nil
	}
	for i := range d.streams {
		if d.streams[i].usable() {
			return i, nil
		}
	}
	for i := range d.streams {
		if strings.Contains(d.streams[i].proto, "SAVP") {
			return 0, fmt.Errorf("only encrypted media (%s) was offered, which this version does not speak: %w", d.streams[i].proto, site.NotAcceptable)
		}
	}
	return 0, fmt.Errorf("no audio stream that can be carried: %w", site.NotAcceptable)
}

// line is one m= section of what we say.
type line struct {
	media, proto, formats string // of a rejected one
	live                  *stream
}

// write makes an SDP with one live stream; the other lines are rejected.
func write(id, version uint64, local netip.Addr, port, rtcp uint16, lines []line) []byte {
	family := "IP4"
	local = local.WithZone("") // means nothing elsewhere
	if local.Is6() {
		family = "IP6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "v=0\r\no=- %d %d IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\n", id, version, family, local, family, local)
	for _, l := range lines {
		if l.live == nil {
			fmt.Fprintf(&b, "m=%s 0 %s %s\r\n", l.media, l.proto, l.formats)
			continue
		}
		fmt.Fprintf(&b, "m=audio %d %s", port, l.proto)
		for _, c := range l.live.codecs {
			fmt.Fprintf(&b, " %d", c.pt)
		}
		b.WriteString("\r\n")
		for _, c := range l.live.codecs {
			b.WriteString(c.rtpmap() + "\r\n")
			if c.fmtp != "" {
				fmt.Fprintf(&b, "a=fmtp:%d %s\r\n", c.pt, c.fmtp)
			}
		}
		if rtcp != port+1 {
			fmt.Fprintf(&b, "a=rtcp:%d\r\n", rtcp)
		}
		if l.live.ptime != "" {
			fmt.Fprintf(&b, "a=ptime:%s\r\n", l.live.ptime)
		}
		if l.live.maxptime != "" {
			fmt.Fprintf(&b, "a=maxptime:%s\r\n", l.live.maxptime)
		}
		fmt.Fprintf(&b, "a=%s\r\n", l.live.dir)
	}
	return []byte(b.String())
}
