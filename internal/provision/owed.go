package provision

import (
	"context"
	"crypto/sha256"
)

// Owed is Seen, with Owed set for each phone whose settings have changed since
// this node gave them to it: it is to be asked to fetch them again.
func (s *Service) Owed(ctx context.Context) []Seen {
	out := s.Seen()
	for i := range out {
		d := &out[i]
		if d.Fetched.IsZero() {
			continue
		}
		p, err := s.cfg.Phone(ctx, d.MAC)
		if err != nil || p == nil {
			continue // nothing could be fetched
		}
		f, err := Render(p, s.cfg.Now(), s.Secret(p))
		d.Owed = err == nil && sha256.Sum256(f.Body) != d.has
	}
	return out
}
