// Package peers measures this product's engine beside another that solves the
// same problem, in one run: how many bytes cross a connection, and how long it
// takes.
//
// It is a module of its own, so that the product does not depend on the other.
// One command, in this folder or as "make peers" from above, prints the table:
//
//	go test -count=1 -v -run TestStores -timeout 15m .
//
// Both replicas speak over TCP on loopback, through a line that counts what it
// carries above TCP and that can be cut. Ours is the engine on Badger, each
// write fsynced and signed, and the product's mesh; the other is go-ds-crdt
// v0.6.8 as its README puts it together, with its own defaults and a store in
// memory. The pair's feed beside Kamailio's is TestPeerRegistrars of test/lab.
package peers
