package box

import (
	"context"
	"testing"
	"time"

	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/api"
)

// TestWhoMayCallWhere sets limits as a person would, asks what becomes of calls,
// and hears on a telephone, over the real network, why they are refused.
func TestWhoMayCallWhere(t *testing.T) {
	b := newBox(t)
	b.up("--new-fleet", "Shops")
	ana := as[api.User](b, "user", "create", "201", "--name", "Ana")
	b.must("user", "create", "202", "--name", "Bob")
	b.must("site", "set", "--country", "33", "--national", "0", "--abroad", "00", "--outside", "0", "--number", "+33472001200")
	b.must("trunk", "create", "fxo", "--kind", "peer", "--via", "lan", "--server", "127.0.0.1:9", "--only", "+33,+41", "--bar", "+3389", "--minutes", "600")
	route := func(to string, parts ...string) {
		t.Helper()
		has(t, "route test 201 "+to, b.must("route", "test", "201", to), parts...)
	}
	route("00612345678", "external call to +33612345678 over fxo")
	route("00041791234567", "external call to +41791234567 over fxo")
	route("0004930123456", "refuse: forbidden", "fxo calls only +33, +41")
	route("00899123456", "refuse: forbidden", "fxo does not call +3389")
	b.must("user", "set", "201", "--class", "national")
	has(t, "user get", b.must("user", "get", "201"), "may call", "national")
	route("00041791234567", "refuse: forbidden", "the caller may make national calls only, and this one is international")
	b.must("user", "set", "201", "--class=")
	b.must("shop", "create", "Lyon", "--class", "internal")
	route("00612345678", "refuse: forbidden", "the caller may make internal calls only")
	route("112", "emergency call to 112 over fxo")
	route("202", "voicemail of 0001202 (offline)")
	for _, bad := range [][]string{{"user", "set", "201", "--class", "everywhere"}, {"trunk", "set", "fxo", "--only", "33"}, {"trunk", "set", "fxo", "--minutes", "-1"}, {"site", "set", "--number", "0472"}} {
		if a := b.cli(bad...); a.code == 0 || a.err == "" {
			t.Errorf("ccnode %v: exit %d: %s", bad, a.code, a.out)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := b.phone(ana, ana.Devices[0].Password)
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	words, err := prompts.English()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		number, prompt string
		status         int
	}{{"299", "not-in-service", 404}, {"00612345678", "not-permitted", 403}} {
		call, err := p.DialStart(ctx, c.number)
		if err != nil {
			t.Fatal(err)
		}
		heard := call.Record(12 * time.Second) // ends with the call
		if err := call.WaitAnswered(ctx); err == nil || call.Cause().Status != c.status {
			t.Errorf("%s: %v, %d", c.number, err, call.Cause().Status)
		}
		clip, _ := words.Clip(c.prompt)
		if _, ok := featurestest.Spoken(clip)(heard); !ok {
			t.Errorf("%s: %q was not heard in %d samples", c.number, c.prompt, len(heard))
		}
	}
}
