package main

import (
	"errors"
	"strings"
)

// share gives all boxes what one has written, as if they had had it for long: in
// memory once, each with what it comes to differ in; or, to compare, each its own.
// The box that wrote runs, the others have not been started.
func (w *world) share(from *box, once bool) error {
	m, ok := from.medium.(*calm)
	if !ok {
		return errors.New("only calm disks can be shared")
	}
	base := from.st.Freeze()
	from.quiet()
	image, rest := map[string]string{}, map[string]string{}
	for k, v := range m.data {
		switch {
		case strings.HasPrefix(k, "c/"), strings.HasPrefix(k, "a/"):
			image[k] = v
			delete(m.data, k)
		case strings.HasPrefix(k, "f/"), k == "s/clock":
			rest[k] = v
		}
	}
	m.keys = nil
	for _, b := range w.boxes {
		if b != from { // its actor is drawn at its first start, on a disk that has nothing
			if err := b.start(); err != nil {
				return err
			}
			b.off(false)
		}
		m := b.medium.(*calm)
		for k, v := range rest {
			m.data[k] = v
		}
		m.keys = nil
		m.onBase(image, once)
		if once {
			b.base = base
		}
	}
	for _, b := range w.boxes {
		if err := b.start(); err != nil {
			return err
		}
	}
	return nil
}

// quiet is off for an engine that has ended.
func (b *box) quiet() {
	b.st = nil
	b.wake++
	b.armed = 0
	b.store.Close()
	b.links = nil
	b.life++
}
