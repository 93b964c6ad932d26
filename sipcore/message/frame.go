package message

import (
	"bytes"
	"strings"
)

// A Framer cuts a stream into messages (RFC 3261 §18.3). How the stream was
// cut into segments makes no difference to what comes out. The zero value
// with Max set is ready; it is not safe for concurrent use.
type Framer struct {
	Max int // octets in one message, head and body; must be set

	buf    []byte // what was written; before start it is spent
	start  int    // of the message not yet returned
	seen   int    // no end of headers starts before this index
	broken bool
}

// A Frame is what Next found.
type Frame struct {
	Raw  []byte // one message, valid until the next Write; nil if none
	Ping bool   // CRLF CRLF between messages: answer CRLF (RFC 5626 §4.4.1)

	// Broken: nothing after this can be understood, because the length of a
	// message is unknown or too large or this is no SIP. Raw may hold the head
	// of the offending message, to be answered before closing.
	Broken bool
}

// Write takes what was read from the stream. It never fails.
func (f *Framer) Write(b []byte) (int, error) {
	if f.start > 0 {
		n := copy(f.buf, f.buf[f.start:])
		f.buf, f.seen, f.start = f.buf[:n], max(0, f.seen-f.start), 0
		if n == 0 && cap(f.buf) > 8192 {
			f.buf = nil // idle connections hold no large buffer
		}
	}
	f.buf = append(f.buf, b...)
	return len(b), nil
}

// Partial says whether a message has begun and not ended. A lone CR or CRLF is
// no beginning.
func (f *Framer) Partial() bool {
	return len(bytes.TrimLeft(f.buf[f.start:], "\r\n")) > 0
}

// Next returns the next whole message or ping. The zero Frame means: read more.
func (f *Framer) Next() Frame {
	if f.broken {
		return Frame{Broken: true}
	}
	b := f.buf[f.start:]
	// RFC 3261 §7.5: CRLF before a start-line is ignored. Two of them with
	// nothing in between are a ping; one alone may be the first half of one.
	if len(b) >= 4 && string(b[:4]) == "\r\n\r\n" {
		f.start += 4
		return Frame{Ping: true}
	}
	if len(b) >= 2 && string(b[:2]) == "\r\n" {
		if len(b) == 2 || len(b) == 3 && b[2] == '\r' {
			return Frame{}
		}
		f.start += 2
		b = b[2:]
	}
	if len(b) == 0 || len(b) == 1 && b[0] == '\r' {
		return Frame{}
	}
	if !tokenChar[b[0]] {
		f.broken = true
		return Frame{Broken: true}
	}
	from := max(0, f.seen-f.start)
	i := bytes.Index(b[from:], []byte("\r\n\r\n"))
	if i < 0 {
		f.seen = f.start + max(0, len(b)-3)
		if len(b) > f.Max {
			f.broken = true
			return Frame{Raw: b, Broken: true}
		}
		return Frame{}
	}
	f.seen = f.start + from + i
	head := b[:from+i+4]
	n, ok := contentLength(head)
	if !ok || len(head)+n > f.Max {
		f.broken = true
		return Frame{Raw: head, Broken: true}
	}
	if len(b) < len(head)+n {
		return Frame{}
	}
	f.start += len(head) + n
	return Frame{Raw: b[:len(head)+n]}
}

// contentLength finds the one Content-Length of a head, folded or not. It is
// not ok where Parse would refuse it.
func contentLength(head []byte) (n int, ok bool) {
	_, rest, _ := bytes.Cut(head, []byte("\r\n")) // the start-line
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, found := bytes.Cut(line, []byte(":"))
		name = bytes.TrimRight(name, " \t")
		if !found || !(len(name) == 1 && name[0]|0x20 == 'l') && !(len(name) == 14 && strings.EqualFold(string(name), "Content-Length")) {
			continue
		}
		text := trim(string(value))
		for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
			line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
			text = trim(text + " " + trim(string(line)))
		}
		if ok || !isDigits(text) || len(text) > 9 {
			return 0, false // repeated, negative, or beyond any bound
		}
		for _, c := range []byte(text) {
			n = n*10 + int(c-'0')
		}
		ok = true
	}
	return n, ok
}
