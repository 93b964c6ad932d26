package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"carrierclass.net/ccnode/internal/api"
)

func adminCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "admin", Short: "Administrators: people who log in at boxes, and who is shown beside a change"}
	var n api.NewAdmin
	create := &cobra.Command{
		Use: "create NAME", Short: "Appoint an administrator", Args: args(1, 1, "a name, such as ann"),
		Long: "Without --fleet or --sites it is one of this box's site. No box keeps the password: it opens the person's key. Without --password-file one is made and\n" +
			"shown once. A box that may admit boxes to the fleet may appoint for the fleet, one that may admit to its site for its site.",
		Example: "  ccnode admin create ann --fleet\n  ccnode admin create bob --sites 0001,0002 --password-file bob.txt",
		RunE: func(cmd *cobra.Command, a []string) (err error) {
			n.Name = a[0]
			if n.Password, err = fromFile(cmd, "password-file"); err != nil {
				return err
			}
			out, err := ask[api.Admin](cmd, s, http.MethodPost, "/admins", n)
			if err != nil {
				return err
			}
			return s.show(out, func(t *table) { adminRows(t, out) })
		},
	}
	create.Flags().BoolVar(&n.Fleet, "fleet", false, "of every site, and of the fleet's settings")
	create.Flags().StringSliceVar(&n.Sites, "sites", nil, "codes of the sites, separated by commas")
	create.Flags().String("password-file", "", "a file with the password in its first line; - is the input")
	list := &cobra.Command{
		Use: "list", Short: "List the administrators in force", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			as, err := ask[[]api.Admin](cmd, s, http.MethodGet, "/admins", nil)
			if err != nil {
				return err
			}
			return s.show(as, func(t *table) {
				t.row("NAME", "OF", "APPOINTED", "BY BOX", "ID")
				for _, a := range as {
					t.row(a.Name, adminOf(a), a.Issued.Local().Format("2006-01-02 15:04"), a.Issuer, a.ID)
				}
			})
		},
	}
	passwd := &cobra.Command{
		Use: "passwd NAME", Short: "Change an administrator's password; the old one is asked for", Args: args(1, 1, "a name"),
		Long: "Reads the old password from the first line of the input (or of --old-file). The new one is made and shown once, unless --new-file names one.\n" +
			"Who has lost the old one is revoked and appointed anew.",
		RunE: func(cmd *cobra.Command, a []string) error {
			old, err := secretOf(cmd, "old-file", "password of "+a[0]+": ")
			if err != nil {
				return err
			}
			p := api.NewAdminPassword{Old: old}
			if p.New, err = fromFile(cmd, "new-file"); err != nil {
				return err
			}
			out, err := ask[api.Admin](cmd, s, http.MethodPost, "/admins/"+pathEscape(a[0])+"/password", p)
			if err != nil {
				return err
			}
			return s.show(out, func(t *table) { adminRows(t, out) })
		},
	}
	passwd.Flags().String("old-file", "", "a file with the old password in its first line")
	passwd.Flags().String("new-file", "", "a file with the new password in its first line")
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "End an administrator, everywhere: their sessions end where this is heard", Args: args(1, 1, "a name or an id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			out, err := ask[api.Admin](cmd, s, http.MethodDelete, "/admins/"+pathEscape(a[0]), nil)
			if err != nil {
				return err
			}
			return s.show(out, func(t *table) { t.row("revoked", out.Name, adminOf(out), out.ID) })
		},
	}
	c.AddCommand(create, list, passwd, revoke)
	return c
}

func loginCommands(s *settings) []*cobra.Command {
	login := &cobra.Command{
		Use: "login NAME", Short: "Log in as an administrator; what it prints is for CCNODE_TOKEN", Args: args(1, 1, "an administrator's name"),
		Long: "Reads the password from the first line of the input, or of --password-file. The session counts at that box for 12 hours, until ccnode logout, until the\n" +
			"administrator is revoked, or until the box is started again. With CCNODE_TOKEN set, every command is that person's, through the socket, too.",
		Example: "  export CCNODE_TOKEN=$(ccnode login ann)\n  ccnode user set 201 --name Ana",
		RunE: func(cmd *cobra.Command, a []string) error {
			pw, err := secretOf(cmd, "password-file", "password of "+a[0]+": ")
			if err != nil {
				return err
			}
			s.token = "" // an older session has nothing to say here
			x, err := ask[api.Session](cmd, s, http.MethodPost, "/login", api.LogIn{Name: a[0], Password: pw})
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) { t.row(x.Token) })
		},
	}
	login.Flags().String("password-file", "", "a file with the password in its first line")
	logout := &cobra.Command{
		Use: "logout", Short: "End the session of CCNODE_TOKEN", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := s.client()
			if err == nil {
				err = cl.Do(cmd.Context(), http.MethodDelete, "/login", nil, nil, "")
			}
			return err
		},
	}
	whoami := &cobra.Command{
		Use: "whoami", Short: "Who the box takes this for", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			x, err := ask[api.Session](cmd, s, http.MethodGet, "/login", nil)
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) {
				t.row("name", x.Name)
				if x.Admin != nil {
					t.row("of", adminOf(*x.Admin))
				}
				if x.Ends != nil {
					t.row("until", x.Ends.Local().Format("2006-01-02 15:04"))
				}
			})
		},
	}
	return []*cobra.Command{login, logout, whoami}
}

func adminOf(a api.Admin) string {
	if a.Fleet {
		return "the fleet"
	}
	return "sites " + strings.Join(a.Sites, ", ")
}

func adminRows(t *table, a api.Admin) {
	t.row("administrator", a.Name)
	t.row("of", adminOf(a))
	t.row("id", a.ID)
	if a.Password != "" {
		t.row("password", a.Password, "shown this once")
	}
}

// secretOf reads one line from the file of a flag, else from the input.
func secretOf(cmd *cobra.Command, flag, prompt string) (string, error) {
	if pw, err := fromFile(cmd, flag); err != nil || pw != "" {
		return pw, err
	}
	if st, err := os.Stdin.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		defer fmt.Fprintln(cmd.ErrOrStderr())
		defer unseen()()
	}
	return firstLine(cmd.InOrStdin(), "the input")
}

// unseen makes the terminal show nothing of what is typed, until what it returns
// is called.
func unseen() func() {
	fd := int(os.Stdin.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	now := *was
	now.Lflag &^= unix.ECHO
	if unix.IoctlSetTermios(fd, unix.TCSETS, &now) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }
}

func fromFile(cmd *cobra.Command, flag string) (string, error) {
	name, err := cmd.Flags().GetString(flag)
	switch {
	case err != nil || name == "":
		return "", err
	case name == "-":
		return firstLine(cmd.InOrStdin(), "the input")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return firstLine(f, name)
}

func firstLine(r io.Reader, of string) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line != "" {
		return line, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return "", usageError{fmt.Errorf("no password: the first line of %s is empty", of)}
}
