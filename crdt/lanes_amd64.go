package crdt

import "golang.org/x/sys/cpu"

// wide says whether all of an id's lanes can be made and added in registers.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

//go:noescape
func addExpansion(h *LtHash, id *ID)

//go:noescape
func subExpansion(h *LtHash, id *ID)

//go:noescape
func addLanes(h, x *[expanded]byte)

//go:noescape
func subLanes(h, x *[expanded]byte)
