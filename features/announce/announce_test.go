package announce

import (
	"log/slog"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

func TestEveryAnnouncementHasItsWords(t *testing.T) {
	if _, err := New(Emergency, "no-emergency", site.NoLine, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	if _, err := New(Emergency, "no-such-prompt", site.NoLine, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a prompt that is not there was taken")
	}
}
