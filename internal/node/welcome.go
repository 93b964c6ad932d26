package node

import (
	"fmt"
	"strings"
)

// welcome says in five lines what to do next.
func (n *Node) welcome(fresh bool) {
	sip := fmt.Sprintf("%s port %d, UDP or TCP", joinAddrs(n), n.cfg.SIPPort)
	me := n.member.Letter + ".s" + n.member.Code + "." + n.member.Domain
	at := ""
	if d := n.cfg.Data; d != "" {
		at = " --data " + d
	}
	switch {
	case fresh && n.member.Founder:
		n.opt.Tell(
			fmt.Sprintf("ccnode: fleet %q founded; this box is %s of site %s", n.member.Fleet, me, n.member.Code),
			"1. recovery:  ccnode"+at+" recovery show      24 words for paper; then recovery confirm FIRST LAST",
			"2. a user:    ccnode"+at+" user create 201 --name Ana",
			"3. a phone:   server "+sip+"; user and password as printed",
			"4. more boxes: ccnode"+at+" invite create     for this site, or --site 0002 for a new one; then ccnode up --join TOKEN",
			"5. how it is: ccnode"+at+" status")
	case fresh:
		n.opt.Tell(
			fmt.Sprintf("ccnode: joined fleet %q; this box is %s of site %s", n.member.Fleet, me, n.member.Code),
			"1. phones:    server "+sip,
			"2. users:     ccnode"+at+" user list",
			"3. how it is: ccnode"+at+" status")
	default:
		n.opt.Tell(fmt.Sprintf("ccnode: %s of site %s is up; phones at %s", me, n.member.Code, sip))
	}
}

func joinAddrs(n *Node) string {
	var out []string
	for _, a := range n.cfg.Listen {
		out = append(out, a.String())
	}
	return strings.Join(out, " or ")
}
