package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

// apiProtocol asks another site's node about a mailbox of its own: entries are
// held at home only, and fetched on use (state.md §7).
const apiProtocol = "/ccnode/mailbox/1"

type mailboxQuery struct {
	User   site.RecordID `json:"user"`
	Op     string        `json:"op"` // list, audio, move
	ID     site.RecordID `json:"id"`
	Folder string        `json:"folder,omitempty"`
	By     string        `json:"by,omitempty"`
}

type mailboxAnswer struct {
	Status   int           `json:"status,omitempty"`
	Error    string        `json:"error,omitempty"`
	Messages []api.Message `json:"messages,omitempty"`
	Size     int64         `json:"size,omitempty"`
}

// home answers whose node holds a user's mailbox; zero site: this one.
func (b *backend) home(who string) (id site.RecordID, at site.ID, err error) {
	if id, err = b.find(who); err != nil {
		return id, at, err
	}
	u, err := b.n.state.User(id)
	if err != nil {
		e, ok := b.n.state.Service(id) // a group has a mailbox, too
		if !ok {
			return id, at, refuse(err)
		}
		u.Site, u.Here = e.Home, e.Home == b.n.member.Site
	}
	if u.Here {
		return id, site.ID{}, nil
	}
	return id, u.Site, nil
}

func (b *backend) Messages(ctx context.Context, who string) ([]api.Message, error) {
	id, at, err := b.home(who)
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		return b.n.messages(id), nil
	}
	a, s, err := b.n.ask(ctx, at, mailboxQuery{User: id, Op: "list"})
	if err != nil {
		return nil, err
	}
	s.Close()
	if a.Messages == nil {
		a.Messages = []api.Message{}
	}
	return a.Messages, nil
}

func (n *Node) messages(mailbox site.RecordID) []api.Message {
	out := []api.Message{}
	for _, m := range n.state.AllMessages(mailbox) {
		left, _ := n.state.Site(m.LeftAt)
		x := api.Message{ID: m.ID, From: m.From, FromName: m.FromName, At: m.At, Seconds: m.Duration.Seconds(), Heard: m.Heard, Folder: string(m.Folder),
			CutOff: m.CutOff, LeftAt: left.Code, Audio: "arriving", Blob: m.Audio.String()}
		if n.blobs.Has(m.Audio) {
			x.Audio = "here"
		} else if p, ok := n.fetch.Progress(m.Audio); ok && p.Size > 0 {
			x.Arrived = float64(p.Have*100/p.Size) / 100
		}
		out = append(out, x)
	}
	return out
}

func (b *backend) Audio(ctx context.Context, who string, id site.RecordID) (io.ReadCloser, error) {
	user, at, err := b.home(who)
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		return b.n.audioOf(ctx, user, id)
	}
	_, s, err := b.n.ask(ctx, at, mailboxQuery{User: user, Op: "audio", ID: id})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// audioOf waits for a recording that is on its way, as long as it gets on.
func (n *Node) audioOf(ctx context.Context, user, id site.RecordID) (io.ReadCloser, error) {
	m, ok := n.state.Message(id)
	if !ok || m.Mailbox != user {
		return nil, api.NotFound("no message "+id.String()+" in that mailbox", "\"ccnode voicemail list USER\" shows them")
	}
	if err := n.bring(ctx, m.Audio); err != nil {
		return nil, err
	}
	r, err := n.wavOf(m.Audio)
	return r, refuse(err)
}

func (b *backend) MoveMessage(ctx context.Context, by, who string, id site.RecordID, folder string) error {
	user, at, err := b.home(who)
	if err != nil {
		return err
	}
	if at.IsZero() {
		return b.n.move(ctx, by, user, id, folder)
	}
	_, s, err := b.n.ask(ctx, at, mailboxQuery{User: user, Op: "move", ID: id, Folder: folder, By: by})
	if err == nil {
		s.Close()
	}
	return err
}

func (n *Node) move(ctx context.Context, by string, user, id site.RecordID, folder string) error {
	if m, ok := n.state.Message(id); !ok || m.Mailbox != user {
		return api.NotFound("no message "+id.String()+" in that mailbox", "\"ccnode voicemail list USER\" shows them")
	}
	return refuse(n.state.MoveMessage(ctx, by, id, site.Folder(folder)))
}

// ask puts a question to a node of a site, in order of preference.
func (n *Node) ask(ctx context.Context, at site.ID, q mailboxQuery) (a mailboxAnswer, s io.ReadCloser, err error) {
	x, _ := n.state.Site(at)
	var errs []error
	for _, y := range (view{n}).site(x).Nodes {
		a, s, err := n.askNode(ctx, y, q)
		if err == nil {
			return a, s, nil
		}
		var refused *api.Error
		if errors.As(err, &refused) {
			return a, nil, err
		}
		errs = append(errs, err)
	}
	return a, nil, api.Unavailable(fmt.Sprintf("site %s, which holds the mailbox, cannot be reached (%v)", x.Code, errors.Join(errs...)), "try again when it can")
}

func (n *Node) askNode(ctx context.Context, id site.NodeID, q mailboxQuery) (a mailboxAnswer, _ io.ReadCloser, err error) {
	octx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := n.mesh.OpenStream(octx, mesh.PeerID(id), apiProtocol)
	n.tried(ctx, id, err)
	if err != nil {
		return a, nil, err
	}
	s := patient{c}
	gaveUp := context.AfterFunc(ctx, func() { s.Close() })
	defer gaveUp()
	if err := json.NewEncoder(s).Encode(q); err != nil {
		s.Close()
		return a, nil, err
	}
	left := &io.LimitedReader{R: s, N: maxAnswer}
	r := bufio.NewReader(left)
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && (a.Size < 0 || a.Size > maxAudio) {
		err = fmt.Errorf("a recording of %d bytes is announced", a.Size)
	}
	if err != nil {
		s.Close()
		n.tried(ctx, id, err)
		return a, nil, fmt.Errorf("ask %s: %w", id, err)
	}
	left.N = a.Size
	if a.Error != "" {
		s.Close()
		return a, nil, &api.Error{Status: a.Status, What: a.Error}
	}
	return a, struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, a.Size), s}, nil
}

const (
	maxAnswer = 4 << 20  // a list of some ten thousand messages
	maxAudio  = 64 << 20 // more than two hours
	patience  = 30 * time.Second
)

// patient gives each piece its time, so that a recording may take as long as a
// thin line needs.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b[:min(len(b), 16<<10)])
}

func (p patient) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err := p.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return n, err
		}
		var k int
		k, err = p.Conn.Write(b[n:min(len(b), n+16<<10)])
		n += k
	}
	return n, err
}

// serveRemote answers members of the fleet.
func (n *Node) serveRemote(s mesh.Stream) {
	defer s.Close()
	var q mailboxQuery
	if err := json.NewDecoder(io.LimitReader(patient{s}, 8<<10)).Decode(&q); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	enc := json.NewEncoder(patient{s})
	fail := func(err error) {
		a := mailboxAnswer{Status: 500, Error: err.Error()}
		var e *api.Error
		if errors.As(err, &e) {
			a.Status = e.Status
		}
		_ = enc.Encode(a)
	}
	switch q.Op {
	case "list":
		_ = enc.Encode(mailboxAnswer{Messages: n.messages(q.User)})
	case "move":
		by := strings.TrimSpace(q.By) + "@" + n.siteOfNode(site.NodeID(s.Peer()))
		if err := n.move(ctx, by, q.User, q.ID, q.Folder); err != nil {
			fail(err)
			return
		}
		_ = enc.Encode(mailboxAnswer{})
	case "audio":
		r, err := n.audioOf(ctx, q.User, q.ID)
		if err != nil {
			fail(err)
			return
		}
		defer r.Close()
		m, _ := n.state.Message(q.ID)
		size, err := n.blobs.Size(m.Audio)
		if err != nil {
			fail(err)
			return
		}
		if err := enc.Encode(mailboxAnswer{Size: size}); err == nil {
			_, _ = io.Copy(patient{s}, struct{ io.Reader }{r})
		}
	default:
		fail(api.Invalid("unknown question "+q.Op, "the other node is of a newer version"))
	}
}
