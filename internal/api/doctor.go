package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Doctor is what a box finds wrong with itself and with the network round it,
// and which ports it needs. Nothing of it is guessed: every finding says by
// which evidence, and what could not be looked at is said, too.
type Doctor struct {
	At       time.Time `json:"at"`
	Node     string    `json:"node"`
	Findings []Finding `json:"findings"`
	Ports    []Port    `json:"ports" doc:"The firewall statement: what this box listens on and where it calls, now"`
	Router   string    `json:"router" doc:"In a sentence: what must be opened on the shop's router"`
}

// Faults counts the findings that keep something from working.
func (d Doctor) Faults() (n int) {
	for _, f := range d.Findings {
		if f.Level == LevelFault {
			n++
		}
	}
	return n
}

// Levels of a finding.
const (
	LevelOK      = "ok"
	LevelUnknown = "not looked at"
	LevelWarning = "warning"
	LevelFault   = "fault"
)

// A Finding is one thing that was looked at.
type Finding struct {
	Level string `json:"level" enum:"ok,not looked at,warning,fault"`
	Check string `json:"check" example:"double-nat" doc:"Which question this answers"`
	What  string `json:"what" doc:"In a sentence"`
	Why   string `json:"why,omitempty" doc:"The evidence"`
	Do    string `json:"do,omitempty" doc:"What to do about it"`
}

// A Port is one line of the firewall statement.
type Port struct {
	Way      string   `json:"way" enum:"in,out" doc:"in: this box listens; out: it calls there"`
	Protocol string   `json:"protocol" enum:"udp,tcp"`
	Port     string   `json:"port" example:"30000-30999"`
	Addrs    []string `json:"addrs" doc:"in: addresses of this box; out: who is called"`
	Who      string   `json:"who" doc:"in: from whom; out: who that is"`
	For      string   `json:"for"`
	Router   string   `json:"router" doc:"What to do on the router towards the Internet"`
}

// Diagnostician is a Backend that can examine its box.
type Diagnostician interface {
	Doctor(ctx context.Context) Doctor
}

func registerDoctor(h huma.API, b Backend) {
	d, ok := b.(Diagnostician)
	if !ok {
		return
	}
	huma.Register(h, op("doctor", http.MethodGet, "/doctor", "What is wrong with this box and the network round it, and which ports it needs", "node"),
		func(ctx context.Context, _ *none) (*body[Doctor], error) {
			return &body[Doctor]{d.Doctor(ctx)}, nil
		})
}
