package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Kinds of events.
const (
	EventHello       = "hello"        // the first: from here on nothing is missed
	EventMissed      = "missed"       // what happened before is not remembered here: read again what matters
	EventMergeOpened = "merge-opened" // two sides turned out to have changed one thing, or one more side
	EventMergeClosed = "merge-closed" // settled, by whomever
	EventRecord      = "record"       // a record of the site changed
	EventMany        = "many"         // so many changed at once that they are not named
	EventCall        = "call"         // a call was answered, or ended
	EventEnd         = "end"          // the last: why says the rest
)

// Event is one thing that happened at this box.
type Event struct {
	ID     uint64        `json:"id" doc:"Grows; send the last one as Last-Event-ID to go on there"`
	At     time.Time     `json:"at"`
	Kind   string        `json:"kind" enum:"hello,missed,merge-opened,merge-closed,record,many,call,end"`
	Merge  *Merge        `json:"merge,omitempty" doc:"As it is now; a closed one as it was"`
	Record *RecordChange `json:"record,omitempty"`
	Call   *Call         `json:"call,omitempty"`
	Merges *int          `json:"merges,omitempty" doc:"How many are open now; of hello and merge events"`
	Why    string        `json:"why,omitempty" doc:"Of missed, many and end"`
}

// RecordChange is a record that changed: who asks for its history sees how.
type RecordChange struct {
	Kind   string   `json:"kind" doc:"As in the history: user, device, group and so on"`
	ID     string   `json:"id"`
	Record string   `json:"record" doc:"What it is, in words"`
	Fields []string `json:"fields" doc:"That were written"`
}

// A Feed is what one follower is told.
type Feed interface {
	// Next waits for the next event. After EventEnd there is none.
	Next(ctx context.Context) (Event, error)
	Close()
}

// pingEvery keeps a silent stream alive; it goes to who follows, nowhere else.
const (
	pingEvery  = 20 * time.Second
	writeLimit = 10 * time.Second // then a follower is gone
)

func eventsOperation(h huma.API) huma.Operation {
	o := op("events", http.MethodGet, "/events", "What happens at this box, as server-sent events", "node")
	o.Description = "The event's name is its kind; its data is the object below. A comment every 20 s keeps the line open. " +
		"Who reads so slowly that the memory of about 1,000 events goes past it gets an event of kind end, and may begin anew."
	event := h.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Event](), true, "Event")
	o.Responses = map[string]*huma.Response{"200": {Description: "Events, until one side ends it",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}}}}}
	return o
}

func registerEvents(h huma.API, b Backend) {
	huma.Register(h, eventsOperation(h), func(ctx context.Context, in *struct {
		Last  string `header:"Last-Event-ID" doc:"Go on after this one" maxLength:"20"`
		After string `query:"after" doc:"The same, for those who cannot set a header" maxLength:"20"`
	}) (*huma.StreamResponse, error) {
		after := uint64(0)
		if in.Last == "" {
			in.Last = in.After
		}
		if in.Last != "" {
			n, err := strconv.ParseUint(in.Last, 10, 64)
			if err != nil {
				return nil, problem(Invalid(fmt.Sprintf("Last-Event-ID %q is no number", in.Last), "send the id of the last event you read, or nothing"))
			}
			after = max(n, 1)
		}
		f, err := b.Follow(ctx, after)
		if err != nil {
			return nil, problem(err)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			defer f.Close()
			_, w := humago.Unwrap(c)
			stream(c.Context(), w, f, func() bool { return stillCounts(c.Context(), b) })
		}}, nil
	})
}

// stream writes events until the reader, the feed, or what lets the reader in ends.
func stream(ctx context.Context, w http.ResponseWriter, f Feed, counts func() bool) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // the time to send a request in does not count here
	send := func(text string) bool {
		if ctl.SetWriteDeadline(time.Now().Add(writeLimit)) != nil {
			return false
		}
		_, err := io.WriteString(w, text)
		return err == nil && ctl.Flush() == nil
	}
	for {
		wait, cancel := context.WithTimeout(ctx, pingEvery)
		e, err := f.Next(wait)
		cancel()
		switch {
		case !counts():
			return
		case err == nil:
			data, err := json.Marshal(e)
			if err != nil || !send(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, data)) || e.Kind == EventEnd {
				return
			}
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			if !send(": still here\n\n") {
				return
			}
		default:
			return
		}
	}
}

// Follow calls fn with each event of the node, from after on (0: from now),
// until one has the kind "end", fn fails, or ctx ends.
func (c *Client) Follow(ctx context.Context, after uint64, fn func(Event) error) error {
	path := "/events"
	if after > 0 {
		path += "?after=" + strconv.FormatUint(after, 10)
	}
	patient := *c.http
	patient.Timeout = 0 // it has no end
	follower := *c
	follower.http = &patient
	r, err := follower.Stream(ctx, path)
	if err != nil {
		return err
	}
	defer r.Close()
	return readEvents(r, fn)
}

// maxEvent bounds one line of a stream.
const maxEvent = 1 << 20

// readEvents reads server-sent events (HTML living standard §9.2) as far as this
// interface makes them: the data of each is one line.
func readEvents(r io.Reader, fn func(Event) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxEvent)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data:")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
		if e.Kind == EventEnd {
			return nil
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read the events: %w", err)
	}
	return nil
}
