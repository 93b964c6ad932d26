#include "textflag.h"

// SSE2, which every amd64 has: eight lanes an instruction. What makes the lanes takes
// ten times as long, so wider instructions would not be seen.

// func addLanes(h, x *[1024]byte)
TEXT ·addLanes(SB), NOSPLIT, $0-16
	MOVQ h+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ $16, CX

add:
	MOVOU (SI), X0
	MOVOU 16(SI), X1
	MOVOU 32(SI), X2
	MOVOU 48(SI), X3
	MOVOU (DI), X4
	MOVOU 16(DI), X5
	MOVOU 32(DI), X6
	MOVOU 48(DI), X7
	PADDW X0, X4
	PADDW X1, X5
	PADDW X2, X6
	PADDW X3, X7
	MOVOU X4, (DI)
	MOVOU X5, 16(DI)
	MOVOU X6, 32(DI)
	MOVOU X7, 48(DI)
	ADDQ  $64, SI
	ADDQ  $64, DI
	DECQ  CX
	JNZ   add
	RET

// func subLanes(h, x *[1024]byte)
TEXT ·subLanes(SB), NOSPLIT, $0-16
	MOVQ h+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ $16, CX

sub:
	MOVOU (SI), X0
	MOVOU 16(SI), X1
	MOVOU 32(SI), X2
	MOVOU 48(SI), X3
	MOVOU (DI), X4
	MOVOU 16(DI), X5
	MOVOU 32(DI), X6
	MOVOU 48(DI), X7
	PSUBW X0, X4
	PSUBW X1, X5
	PSUBW X2, X6
	PSUBW X3, X7
	MOVOU X4, (DI)
	MOVOU X5, 16(DI)
	MOVOU X6, 32(DI)
	MOVOU X7, 48(DI)
	ADDQ  $64, SI
	ADDQ  $64, DI
	DECQ  CX
	JNZ   sub
	RET
