package menu

import (
	"io"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
)

// ask plays the greeting and returns the key, or the figures of an extension,
// that the caller entered; "" if none.
func (v *visit) ask(p *Page, open bool) (string, error) {
	src, done := v.greeting(p, open)
	defer done()
	if p.announcement() {
		// A key does not cut it short, and means nothing later on.
		if _, err := v.play(src, false, time.Millisecond); err != nil {
			return "", err
		}
		return "", v.forget()
	}
	key, err := v.play(src, !p.Keep, p.wait())
	if err != nil || key == 0 {
		return "", err
	}
	if !p.Dial || key < '0' || key > '9' {
		return string(key), nil
	}
	return v.figures(p, key)
}

// directory asks for an extension; "" if none was typed.
func (v *visit) directory(p *Page) (string, error) {
	key, err := v.play(v.cfg.Prompts.Say("dial-extension"), true, p.wait())
	if err != nil || key == 0 {
		return "", err
	}
	return v.figures(p, key)
}

// figures reads the rest of an extension. '#' ends it, '*' begins it again.
func (v *visit) figures(p *Page, key rune) (string, error) {
	var out []byte
	for range maxKeys {
		wait := p.between()
		switch {
		case key == '*':
			out, wait = out[:0], p.wait()
		case key == '#':
			return string(out), nil
		case key >= '0' && key <= '9':
			out = append(out, byte(key)) // #nosec G115: a figure
		}
		if len(out) == p.digits() {
			return string(out), nil
		}
		if len(out) > 0 && v.cfg.Extensions != nil {
			if _, longer := v.cfg.Extensions(string(out)); !longer {
				return string(out), nil
			}
		}
		var err error
		if key, err = v.wait(wait); err != nil || key == 0 {
			return string(out), err
		}
	}
	return "", nil // he begins again and again
}

// greeting puts the parts of a greeting together; done gives back what they
// hold. A recording that is not here is replaced by a standard greeting.
func (v *visit) greeting(p *Page, open bool) (src features.Source, done func()) {
	var parts []features.Source
	var files []io.Closer
	missing := false
	for _, s := range p.Greeting {
		switch {
		case s.Prompt != "":
			c, ok := v.cfg.Prompts.Clip(s.Prompt)
			if !ok {
				v.log.Warn("Prompt of a greeting does not exist", "prompt", s.Prompt)
				missing = true
				continue
			}
			parts = append(parts, c.Source())
		case !s.Blob.IsZero():
			if v.cfg.Blobs == nil {
				missing = true
				continue
			}
			f, err := v.cfg.Blobs.Open(v.life, s.Blob)
			if err != nil {
				v.log.Warn("Recorded greeting cannot be played", "blob", s.Blob, "err", err)
				missing = true
				continue
			}
			files = append(files, f)
			r, err := media.NewWAVReader(f)
			if err != nil {
				v.log.Warn("Recorded greeting cannot be played", "blob", s.Blob, "err", err)
				missing = true
				continue
			}
			parts = append(parts, &heard{src: r, log: func(err error) {
				v.log.Warn("Recorded greeting broke off", "blob", s.Blob, "err", err)
			}})
		case s.Text != "" && v.cfg.Text != nil:
			if src, ok := v.cfg.Text(s.Text); ok {
				parts = append(parts, src)
			} else {
				missing = true
			}
		default:
			missing = true
		}
	}
	if len(parts) == 0 || missing {
		parts = append(parts, v.standard(p, open, len(parts) == 0))
	}
	return media.Sequence(parts...), func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// standard is what is said where the place has said nothing.
func (v *visit) standard(p *Page, open, alone bool) features.Source {
	var names []string
	switch {
	case !alone:
	case open:
		names = append(names, "welcome")
	default:
		names = append(names, "closed")
	}
	if p.Dial {
		names = append(names, "dial-extension")
	}
	return v.cfg.Prompts.Say(names...)
}

// heard makes the end of a file that cannot be read to its end an ordinary end.
type heard struct {
	src features.Source
	log func(error)
}

func (h *heard) ReadFrame(pcm []int16) (int, error) {
	n, err := h.src.ReadFrame(pcm)
	if err != nil && err != io.EOF { //nolint:errorlint // sources give it bare
		h.log(err)
		err = io.EOF
	}
	return n, err
}
