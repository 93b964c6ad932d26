package route

import (
	"fmt"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// Explain prints what would happen to a call from from to what he dials, one
// line a step, with what follows when nobody answers.
func Explain(v View, from site.Party, to URI) []string {
	c := Call{From: from, To: to}
	own := v.Own()
	caller := Shown(v, from)
	if from.Display != "" {
		caller += " (" + from.Display + ")"
	}
	out := []string{fmt.Sprintf("call from %s at site %s to %s", caller, own.Code, to)}
	var past []Outcome
	for n := 1; ; n++ {
		st := Next(v, c, past)
		out = append(out, fmt.Sprintf("%d. %s", n, st.describe(v)))
		assumed := site.NoAnswer
		switch st.Kind {
		case Reject, Feature:
			return out
		case Away:
			out = append(out, "   if that site cannot be reached:")
			assumed = site.Unreachable
		case Ring:
			if busy := Next(v, c, append(past[:len(past):len(past)], Outcome{st, site.Busy})); st.Here {
				out = append(out, "   if busy: "+busy.describe(v))
			}
			out = append(out, "   if nobody answers:")
		case External, Emergency:
			out = append(out, "   if every line fails:")
			assumed = site.NoLine
		}
		past = append(past, Outcome{Step: st, Cause: assumed})
	}
}

func (s Step) describe(v View) string {
	because := ""
	if s.Why != "" {
		because = " [" + s.Why + "]"
	}
	switch s.Kind {
	case Ring:
		var where []string
		if s.Here {
			n := v.Bindings(s.Target.AOR)
			where = append(where, fmt.Sprintf("%d phone(s) here", n))
		}
		for _, b := range s.Sites {
			where = append(where, b.describe())
		}
		return fmt.Sprintf("ring %s for %s: %s%s", s.Target.AOR.User, s.For, strings.Join(where, ", "), because)
	case Away:
		return fmt.Sprintf("hand over to %s%s", s.Sites[0].describe(), because)
	case Feature:
		return fmt.Sprintf("give the call to %s%s", s.Feature, because)
	case Divert:
		return fmt.Sprintf("divert to %s%s", s.To, because)
	case External, Emergency:
		if s.Public {
			return fmt.Sprintf("call %s via public line: %s over %s%s", s.Target.AOR.User, s.Number, strings.Join(s.Trunks, ", "), because)
		}
		return fmt.Sprintf("%s call to %s over %s%s", s.Kind, s.Number, strings.Join(s.Trunks, ", "), because)
	}
	return fmt.Sprintf("refuse: %s%s", s.Cause, because)
}

func (b Branch) describe() string {
	return fmt.Sprintf("site %s (%d node(s), the next one after %s, given up after %s without an answer)", b.Site.Code, len(b.Site.Nodes), b.After, b.Budget)
}
