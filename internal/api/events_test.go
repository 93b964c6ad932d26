package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// line is a Feed that tests speak into.
type line struct {
	what   chan Event
	closed chan struct{}
}

func (l *line) Next(ctx context.Context) (Event, error) {
	select {
	case e := <-l.what:
		return e, nil
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}
func (l *line) Close() { close(l.closed) }

type radio struct {
	shop
	after chan uint64
	line  *line
}

func (r *radio) Follow(_ context.Context, after uint64) (Feed, error) {
	if after == 7 {
		return nil, Unavailable("follow the events: too many follow already: 32", "end one of them first")
	}
	r.after <- after
	return r.line, nil
}

func tuned(t *testing.T) (*radio, *Client) {
	t.Helper()
	r := &radio{after: make(chan uint64, 1), line: &line{make(chan Event, 10), make(chan struct{})}}
	srv := httptest.NewUnstartedServer(Handler(Config{Backend: r, Build: "test", Token: "secret", Log: slog.New(slog.DiscardHandler)}))
	srv.Config.ReadTimeout = 100 * time.Millisecond // of requests; a stream outlives it
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := NewClient(srv.URL, "secret", srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

func TestEventsArriveInOrderUntilTheEnd(t *testing.T) {
	r, c := tuned(t)
	n := 3
	var got []Event
	done := make(chan error, 1)
	go func() { done <- c.Follow(t.Context(), 41, func(e Event) error { got = append(got, e); return nil }) }()
	if after := <-r.after; after != 41 {
		t.Errorf("follows after %d", after)
	}
	r.line.what <- Event{ID: 42, Kind: EventHello, Merges: &n}
	time.Sleep(300 * time.Millisecond) // longer than a request may take to come
	r.line.what <- Event{ID: 43, Kind: EventRecord, Record: &RecordChange{Kind: "user", Record: "user 201\nevent: end\n\n", Fields: []string{"name"}}}
	r.line.what <- Event{ID: 44, Kind: EventEnd, Why: "it was read too slowly: 9 events are forgotten"}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Merges == nil || *got[0].Merges != 3 || got[1].Record.Record != "user 201\nevent: end\n\n" || got[2].Kind != EventEnd || got[2].ID != 44 {
		t.Errorf("%+v", got)
	}
	select {
	case <-r.line.closed:
	case <-time.After(5 * time.Second):
		t.Error("the feed is still open")
	}
}

func TestWhoHangsUpIsLetGo(t *testing.T) {
	r, c := tuned(t)
	ctx, hangUp := context.WithCancel(t.Context())
	enough := errors.New("enough")
	go func() { <-r.after; r.line.what <- Event{ID: 1, Kind: EventHello} }()
	if err := c.Follow(ctx, 0, func(Event) error { hangUp(); return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	select {
	case <-r.line.closed:
	case <-time.After(5 * time.Second):
		t.Error("who hung up is still told")
	}
}

func TestEventsAreRefusedInWords(t *testing.T) {
	_, c := tuned(t)
	var e *Error
	if err := c.Follow(t.Context(), 7, nil); !errors.As(err, &e) || e.Status != 503 || !strings.Contains(e.What, "too many") {
		t.Errorf("too many: %v", err)
	}
	if _, err := c.Stream(t.Context(), "/events?after=yesterday"); !errors.As(err, &e) || e.Status != 422 || !strings.Contains(e.What, "yesterday") {
		t.Errorf("no number: %v", err)
	}
	none, _ := NewClient(c.base, "wrong", nil)
	if err := none.Follow(t.Context(), 0, nil); !errors.As(err, &e) || e.Status != 401 {
		t.Errorf("without the token: %v", err)
	}
}

// TestTheDocumentDescribesEvents: from the type, with what each kind carries.
func TestTheDocumentDescribesEvents(t *testing.T) {
	_, c := tuned(t)
	r, err := http.Get(strings.TrimSuffix(c.base, "/") + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	var doc struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas map[string]struct{ Properties map[string]json.RawMessage }
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if op := string(doc.Paths["/api/v1/events"]["get"]); !strings.Contains(op, "text/event-stream") || !strings.Contains(op, "Last-Event-ID") {
		t.Errorf("the operation: %s", op)
	}
	for name, fields := range map[string]string{"Event": "id at kind merge record call merges why", "Merge": "both do why closedBy policy", "HistoryField": "old new state", "Undone": "fields left"} {
		for f := range strings.FieldsSeq(fields) {
			if doc.Components.Schemas[name].Properties[f] == nil {
				t.Errorf("%s has no %s in the document", name, f)
			}
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add("id: 1\nevent: hello\ndata: {\"id\":1,\"kind\":\"hello\"}\n\n: still here\n\ndata: {}\n\n")
	f.Add("data: {\"kind\":\"end\"}\n\ndata: x")
	f.Add("data:")
	f.Add(strings.Repeat("x", 5000))
	f.Fuzz(func(t *testing.T, text string) {
		ended := false
		err := readEvents(strings.NewReader(text), func(e Event) error {
			if ended {
				t.Fatal("an event after the end")
			}
			ended = e.Kind == EventEnd
			if _, err := json.Marshal(e); err != nil {
				return fmt.Errorf("it was read and cannot be written: %w", err)
			}
			return nil
		})
		if err != nil && strings.Contains(err.Error(), "cannot be written") {
			t.Fatal(err)
		}
	})
}
