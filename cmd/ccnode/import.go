package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

// columns are what a list of users can say.
var columns = []string{"number", "name", "password", "pin", "e164"}

// userList reads a list of users: CSV, its first line names the columns, commas
// or semicolons between them. problem is told of lines that are none.
type userList struct {
	csv     *csv.Reader
	column  []int // of each field of columns; -1: there is none
	width   int
	problem func(line int, what string)
}

func newUserList(r io.Reader, problem func(line int, what string)) (*userList, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	if mark, _ := b.Peek(3); string(mark) == "\xef\xbb\xbf" { // spreadsheets write it
		_, _ = b.Discard(3)
	}
	start, _ := b.Peek(b.Size())
	line, _, _ := strings.Cut(string(start), "\n")
	u := &userList{csv: csv.NewReader(b), problem: problem}
	if strings.Count(line, ";") > strings.Count(line, ",") {
		u.csv.Comma = ';'
	}
	u.csv.FieldsPerRecord = -1
	head, err := u.csv.Read()
	if err != nil {
		return nil, fmt.Errorf("read the first line: %w; it names the columns: %s", err, strings.Join(columns, ","))
	}
	u.width = len(head)
	for i, h := range head {
		if head[i] = strings.ToLower(strings.TrimSpace(h)); !slices.Contains(columns, head[i]) {
			return nil, fmt.Errorf("the first line names the columns, and %.40q is none; there are %s", h, strings.Join(columns, ", "))
		}
		if slices.Contains(head[:i], head[i]) {
			return nil, fmt.Errorf("the first line names the column %s twice", head[i])
		}
	}
	for _, c := range columns {
		u.column = append(u.column, slices.Index(head, c))
	}
	if u.column[0] < 0 {
		return nil, fmt.Errorf("the first line names the columns, and number is not among them")
	}
	return u, nil
}

// next returns the next row and its line; io.EOF after the last.
func (u *userList) next() (row api.UserRow, line int, err error) {
	for {
		rec, err := u.csv.Read()
		if bad := (*csv.ParseError)(nil); errors.As(err, &bad) {
			u.problem(bad.StartLine, bad.Err.Error())
			continue
		}
		if err != nil {
			return row, 0, err
		}
		line, _ := u.csv.FieldPos(0)
		if len(rec) != u.width {
			u.problem(line, fmt.Sprintf("%d fields, and the first line names %d columns", len(rec), u.width))
			continue
		}
		for i, to := range []*string{&row.Number, &row.Name, &row.Password, &row.PIN, &row.E164} {
			if c := u.column[i]; c >= 0 {
				*to = rec[c]
				if i != 2 { // a password may begin with a space
					*to = strings.TrimSpace(rec[c])
				}
			}
		}
		if slices.ContainsFunc(rec, func(f string) bool { return len(f) > 256 }) {
			u.problem(line, "a field of more than 256 bytes")
			continue
		}
		return row, line, nil
	}
}

func importCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Create many users from a list (CSV)",
		Long: "Create users of this site from a CSV file, or - for the standard input. Its first line names the columns, out of\n" +
			strings.Join(columns, ", ") + ". Who has no password gets a strong one.\n\n" +
			"What each telephone logs in with goes to the standard output as CSV; keep it. Lines that cannot be are named on the\n" +
			"standard error and left out. After an interruption run it again: who is there, with the same name and public number,\n" +
			"is left alone.",
		Example: "  ccnode user import staff.csv > log-ins.csv",
		Args:    args(1, 1, "a file, or -"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := io.Reader(os.Stdin)
			if a[0] != "-" {
				f, err := os.Open(a[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return importUsers(cmd, s, in)
		},
	}
}

func importUsers(cmd *cobra.Command, s *settings, in io.Reader) error {
	made, there, refused := 0, 0, 0
	problem := func(line int, what string) {
		refused++
		fmt.Fprintf(os.Stderr, "line %d: %s\n", line, clean(what))
	}
	rows, err := newUserList(in, problem)
	if err != nil {
		return usageError{err}
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	out := csv.NewWriter(os.Stdout)
	_ = out.Write([]string{"number", "name", "log-in", "password", "realm"})
	tell := func() string {
		return fmt.Sprintf("%d created, %d were there, %d refused", made, there, refused)
	}
	for err == nil {
		var body api.UserRows
		var lines []int
		for len(body.Users) < api.MaxUserRows {
			row, line, rerr := rows.next()
			if err = rerr; err != nil {
				break
			}
			body.Users, lines = append(body.Users, row), append(lines, line)
		}
		if err != nil && err != io.EOF || len(lines) == 0 {
			break
		}
		var got []api.UserRowResult
		if e := cl.Do(cmd.Context(), http.MethodPost, "/users/bulk", body, &got, ""); e != nil {
			return fmt.Errorf("lines %d to %d: %w (%s before that; run it again to go on)", lines[0], lines[len(lines)-1], e, tell())
		}
		if len(got) != len(lines) {
			return fmt.Errorf("the node answered %d of %d lines", len(got), len(lines))
		}
		var stop error
		for i, g := range got {
			x := body.Users[i]
			switch {
			case g.Status >= http.StatusInternalServerError:
				problem(lines[i], g.Error)
				stop = fmt.Errorf("the node cannot write now: %s; %s; run it again to go on", g.Error, tell())
			case g.Error != "":
				problem(lines[i], g.Error)
			case g.Existed:
				there++
			default:
				made++
				password := g.Password
				if password == "" {
					password = x.Password
				}
				_ = out.Write([]string{g.Number, x.Name, g.Number, password, g.Realm})
			}
		}
		if out.Flush(); out.Error() != nil {
			return fmt.Errorf("write the log-ins: %w", out.Error())
		}
		if stop != nil {
			return stop
		}
	}
	if err != io.EOF {
		return fmt.Errorf("read the list: %w; %s", err, tell())
	}
	fmt.Fprintln(os.Stderr, tell())
	if refused > 0 {
		return &api.Error{Status: http.StatusUnprocessableEntity, What: fmt.Sprintf("%d lines were refused", refused), Do: "correct them and run it again; who is there is left alone"}
	}
	return nil
}
