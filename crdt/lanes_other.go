//go:build !amd64

package crdt

func addLanes(h, x *[expanded]byte) { addWords(h, x) }

func subLanes(h, x *[expanded]byte) { subWords(h, x) }
