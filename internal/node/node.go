// Package node builds every room of the house, opens them in order and closes
// them in reverse. It is the only place where rooms that do not know each other
// meet.
package node
