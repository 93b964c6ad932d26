package provision

import (
	"testing"
	"time"
)

var today = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func TestRulesOfZones(t *testing.T) {
	for name, want := range map[string]struct {
		posix   string
		lasting bool
	}{
		"Europe/Berlin":       {"STD-1DST-2,M3.5.0/2,M10.5.0/3", true},
		"Europe/London":       {"STD0DST-1,M3.5.0/1,M10.5.0/2", true},
		"America/New_York":    {"STD5DST4,M3.2.0/2,M11.1.0/2", true},
		"America/St_Johns":    {"STD3:30DST2:30,M3.2.0/2,M11.1.0/2", true},
		"Australia/Sydney":    {"STD-10DST-11,M10.1.0/2,M4.1.0/3", true},
		"Asia/Kolkata":        {"STD-5:30", true},
		"America/Phoenix":     {"STD7", true},
		"UTC":                 {"STD0", true},
		"Australia/Lord_Howe": {"STD-10:30DST-11,M10.1.0/2,M4.1.0/2", true},
	} {
		z, err := Rules(name, today)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := z.POSIX(); got != want.posix || z.Lasting != want.lasting {
			t.Errorf("%s: %s lasting %v, want %s", name, got, z.Lasting, want.posix)
		}
	}
}

// TestRulesHold compares what a phone would show by the rule with what the
// zone says, hour by hour for a year, for every zone whose rule lasts.
func TestRulesHold(t *testing.T) {
	for _, name := range []string{"Europe/Paris", "America/Chicago", "Pacific/Auckland", "Asia/Jerusalem", "Africa/Casablanca", "Africa/Cairo", "America/Santiago"} {
		z, err := Rules(name, today)
		if err != nil {
			t.Fatal(err)
		}
		loc, _ := time.LoadLocation(name)
		for at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC); at.Year() == 2026; at = at.Add(time.Hour) {
			_, want := at.In(loc).Zone()
			if got := z.at(at); got != want && z.Lasting {
				t.Errorf("%s at %v: offset %d, want %d", name, at, got, want)
				break
			}
		}
	}
}

// at is the offset a phone with this zone has.
func (z Zone) at(t time.Time) int {
	if z.Save == 0 {
		return z.Offset
	}
	on := z.Start.in(t.Year()).Add(-time.Duration(z.Offset) * time.Second)
	off := z.End.in(t.Year()).Add(-time.Duration(z.Offset+z.Save) * time.Second)
	summer := !t.Before(on) && t.Before(off)
	if off.Before(on) {
		summer = !t.Before(on) || t.Before(off)
	}
	if summer {
		return z.Offset + z.Save
	}
	return z.Offset
}

func (c Change) in(year int) time.Time {
	day := time.Date(year, c.Month, 1, 0, 0, 0, 0, time.UTC)
	day = day.AddDate(0, 0, int(c.Weekday-day.Weekday()+7)%7+7*(c.Week-1))
	for day.Month() != c.Month {
		day = day.AddDate(0, 0, -7)
	}
	return day.Add(time.Duration(c.Second) * time.Second)
}

func TestRulesRefuse(t *testing.T) {
	for _, name := range []string{"", "Local", "Europe/Nowhere", "../../etc/passwd"} {
		if _, err := Rules(name, today); err == nil {
			t.Errorf("%q taken", name)
		}
	}
}
