package state

import "carrierclass.net/ccnode/internal/site"

// MessagesWith lists the messages of this site whose audio is ref.
func (s *State) MessagesWith(ref site.BlobRef) (out []site.Message) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.ix.messages {
		if m.Audio == ref {
			out = append(out, *m)
		}
	}
	return out
}
