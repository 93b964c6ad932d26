//go:build !amd64

package crdt

const wide = false

func addExpansion(h *LtHash, id *ID) {}

func subExpansion(h *LtHash, id *ID) {}

func addLanes(h, x *[expanded]byte) { addWords(h, x) }

func subLanes(h, x *[expanded]byte) { subWords(h, x) }
