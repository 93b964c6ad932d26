package pair

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// A Window is the time in which phones of the site may begin to fetch their
// settings. Clocks of the two nodes need not agree: it is told as what is left.
type Window struct {
	Left time.Duration `cbor:"1,keyasint,omitempty"` // 0: closed
	MACs []string      `cbor:"2,keyasint,omitempty"` // only these phones; none: all
}

// A windowItem is the question and the answer: one of each on a stream.
type windowItem struct {
	Told *Window `cbor:"1,keyasint,omitempty"` // nil: asks which is open
}

// maxWindowItem bounds an item from outside: 200 phones by MAC are 4 KB.
const maxWindowItem = 16 << 10

// TellWindow tells the other node over c that a person opened or closed the
// window. It returns when the other node has done the same.
func TellWindow(c net.Conn, w Window) error {
	_, err := exchangeWindow(c, windowItem{Told: &w})
	return err
}

// AskWindow asks the other node which window is open there.
func AskWindow(c net.Conn) (Window, error) { return exchangeWindow(c, windowItem{}) }

func exchangeWindow(c net.Conn, it windowItem) (Window, error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(ackWait))
	if err := writeWindow(c, it); err != nil {
		return Window{}, fmt.Errorf("tell the pair of the phones' window: %w", err)
	}
	out, err := readWindow(bufio.NewReader(c))
	if err == nil && out.Told == nil {
		err = errors.New("it answers with a question")
	}
	if err != nil {
		return Window{}, fmt.Errorf("hear from the pair of the phones' window: %w", err)
	}
	return *out.Told, nil
}

// HearWindow serves one stream of the other node: told does here what a person
// did there, is says which window is open here.
func HearWindow(c net.Conn, told func(Window) error, is func() Window) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(ackWait))
	it, err := readWindow(bufio.NewReader(c))
	if err != nil {
		return fmt.Errorf("hear from the pair of the phones' window: %w", err)
	}
	if it.Told != nil {
		if err := told(*it.Told); err != nil {
			return err // the stream ends without an answer
		}
	}
	w := is()
	return writeWindow(c, windowItem{Told: &w})
}

func writeWindow(c net.Conn, it windowItem) error {
	body, err := cbor.Marshal(it)
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readWindow(r io.Reader) (it windowItem, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return it, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxWindowItem {
		return it, fmt.Errorf("%d bytes at once; at most %d are taken", n, maxWindowItem)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return it, err
	}
	if err := decode.Unmarshal(body, &it); err != nil {
		return it, err
	}
	if it.Told != nil && it.Told.Left < 0 {
		return it, fmt.Errorf("a window of %v", it.Told.Left)
	}
	return it, nil
}
