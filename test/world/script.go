package world

import (
	"bufio"
	"cmp"
	"fmt"
	"strings"
)

// A Story is a script: blocks of commands, each with what they are expected to
// say below a line of dashes. A block ends with an empty line. "#" begins a
// remark; commands on one line are separated by ";".
type Story []Block

// A Block is what is checked at once.
type Block struct {
	Lines []string // as written, with remarks
	At    int      // line of the first
	Want  string   // what the commands say
}

// Parse reads a script.
func Parse(text string) (Story, error) {
	var out Story
	var b Block
	inWant := false
	end := func() {
		if len(b.Lines) > 0 {
			out = append(out, b)
		}
		b, inWant = Block{}, false
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t")
		switch {
		case line == "":
			end()
		case line == "----" && !inWant:
			if len(b.Lines) == 0 {
				return nil, fmt.Errorf("line %d: expected output without a command above it", n)
			}
			inWant = true
		case inWant:
			b.Want += line + "\n"
		default:
			if len(b.Lines) == 0 {
				b.At = n
			}
			b.Lines = append(b.Lines, line)
		}
	}
	end()
	return out, sc.Err()
}

// Text writes the script again, with what was said.
func (s Story) Text() string {
	var out strings.Builder
	for i, b := range s {
		if i > 0 {
			out.WriteString("\n")
		}
		for _, l := range b.Lines {
			out.WriteString(l + "\n")
		}
		if b.Want != "" {
			out.WriteString("----\n" + b.Want)
		}
	}
	return out.String()
}

// Tell runs a script and returns it with what the commands said in the place of
// what was expected. A command that cannot be carried out says why, after "!".
func (w *World) Tell(s Story) Story {
	out := make(Story, len(s))
	for i, b := range s {
		var said strings.Builder
		for _, line := range b.Lines {
			line, _, _ = strings.Cut(line, "#")
			for cmd := range strings.SplitSeq(line, ";") {
				words := strings.Fields(cmd)
				if len(words) == 0 {
					continue
				}
				for i, x := range words {
					words[i] = cmp.Or(w.called[x], x)
				}
				lines, err := w.Do(words)
				for _, l := range lines {
					said.WriteString(l + "\n")
				}
				if err != nil {
					said.WriteString("! " + strings.Join(words, " ") + ": " + err.Error() + "\n")
				}
			}
		}
		out[i] = Block{Lines: b.Lines, At: b.At, Want: w.rename(said.String())}
	}
	return out
}
