package blob

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// A File is a recording in the folder of a box that is dead.
type File struct {
	Ref  site.BlobRef
	Path string
	Size int64 // of the sealed bytes
}

// Files lists the recordings in a folder that nobody may write to. torn counts
// those that are cut off or were put aside as damaged, unfinished those that were
// being made when the box died: they become messages when it starts again.
func Files(dir string) (files []File, torn, unfinished int, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p == dir {
				return err
			}
			torn++ // a folder that cannot be listed
			return nil
		}
		name := d.Name()
		var ref site.BlobRef
		switch {
		case d.IsDir():
		case strings.HasSuffix(name, ".damaged"):
			torn++
		case filepath.Ext(name) == ".rec":
			unfinished++
		case ref.UnmarshalText([]byte(name)) == nil:
			st, err := d.Info()
			if err != nil {
				torn++
				return nil
			}
			size, ok := payload(st.Size())
			if !ok {
				torn++
				return nil
			}
			files = append(files, File{ref, p, size})
		}
		return nil
	})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("list recordings in %s: %w", dir, err)
	}
	return files, torn, unfinished, nil
}

// Read returns the sealed bytes. The name alone says whether they are whole: the
// sums at the end of the file may be wrong. The error matches ErrDamaged.
func (f File) Read() ([]byte, error) {
	in, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("recording %s: %w", f.Ref, err)
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, f.Size))
	if err != nil {
		return nil, fmt.Errorf("recording %s: %w: %w", f.Ref, ErrDamaged, err)
	}
	if sha256.Sum256(b) != [32]byte(f.Ref) {
		return nil, fmt.Errorf("recording %s: %w", f.Ref, ErrDamaged)
	}
	return b, nil
}
