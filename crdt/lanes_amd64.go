package crdt

//go:noescape
func addLanes(h, x *[expanded]byte)

//go:noescape
func subLanes(h, x *[expanded]byte)
