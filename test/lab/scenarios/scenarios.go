// Package scenarios holds the SIPp scripts that the lab and the bench share,
// so that every server is asked the same in the same words.
//
// Fields of the CSV file: 0 user, 1 [authentication …], 2 domain, 3 the number
// called, 4 the address of the user's telephone. Keys: contact_port, where the user's telephone listens; expires.
package scenarios

import "embed"

// FS has one file per scenario.
//
//go:embed *.xml
var FS embed.FS
