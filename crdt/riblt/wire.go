package riblt

import (
	"encoding/binary"
	"fmt"
)

// How cells travel: the sum in 8 bytes, the check in 4, and the count as a
// zigzag varint of its distance from what a set of that size has there on
// average, which is a byte or two (paper, §6).

// leastCell is the shortest a cell can be.
const leastCell = 13

func expected(size uint64, at int) int64 { return int64(2 * size / (2 + uint64(at))) }

// AppendCells writes cells from place first on, of a set of that size.
func AppendCells(b []byte, size uint64, first int, cells []Cell) []byte {
	for i, c := range cells {
		b = binary.BigEndian.AppendUint64(b, c.Sum)
		b = binary.BigEndian.AppendUint32(b, c.Check)
		b = binary.AppendVarint(b, c.Count-expected(size, first+i))
	}
	return b
}

// ReadCells reads what AppendCells wrote, all of b, at most most cells. Errors
// wrap ErrCells.
func ReadCells(b []byte, size uint64, first, most int) ([]Cell, error) {
	if size >= never || first < 0 {
		return nil, fmt.Errorf("%w: a set of %d from place %d", ErrCells, size, first)
	}
	out := make([]Cell, 0, min(most, len(b)/leastCell))
	for len(b) > 0 {
		if len(out) == most || len(b) < leastCell {
			return nil, fmt.Errorf("%w: %d bytes after %d cells of at most %d", ErrCells, len(b), len(out), most)
		}
		c := Cell{Sum: binary.BigEndian.Uint64(b), Check: binary.BigEndian.Uint32(b[8:])}
		count, n := binary.Varint(b[12:])
		if n <= 0 {
			return nil, fmt.Errorf("%w: the count of cell %d", ErrCells, len(out))
		}
		c.Count = count + expected(size, first+len(out))
		if c.Count < 0 || uint64(c.Count) > size {
			return nil, fmt.Errorf("%w: cell %d of a set of %d counts %d", ErrCells, len(out), size, c.Count)
		}
		out, b = append(out, c), b[12+n:]
	}
	return out, nil
}
