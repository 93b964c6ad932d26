#include "textflag.h"

// BLAKE3's compression (its paper, §2.2) of sixteen output blocks at once, one in
// each 32-bit lane: Z0 to Z15 are the state, Z16 to Z23 the words of the id. The
// other eight words of the message are zero, and left out. Then words and blocks
// change places, so that what a block adds lies side by side.

DATA expandIV<>+0(SB)/4, $0x6a09e667
DATA expandIV<>+4(SB)/4, $0xbb67ae85
DATA expandIV<>+8(SB)/4, $0x3c6ef372
DATA expandIV<>+12(SB)/4, $0xa54ff53a
DATA expandIV<>+16(SB)/4, $0x510e527f
DATA expandIV<>+20(SB)/4, $0x9b05688c
DATA expandIV<>+24(SB)/4, $0x1f83d9ab
DATA expandIV<>+28(SB)/4, $0x5be0cd19
DATA expandIV<>+32(SB)/4, $32 // octets of the block
DATA expandIV<>+36(SB)/4, $11 // start and end of a chunk, root
GLOBL expandIV<>(SB), RODATA|NOPTR, $40

DATA expandSeq<>+0(SB)/4, $0
DATA expandSeq<>+4(SB)/4, $1
DATA expandSeq<>+8(SB)/4, $2
DATA expandSeq<>+12(SB)/4, $3
DATA expandSeq<>+16(SB)/4, $4
DATA expandSeq<>+20(SB)/4, $5
DATA expandSeq<>+24(SB)/4, $6
DATA expandSeq<>+28(SB)/4, $7
DATA expandSeq<>+32(SB)/4, $8
DATA expandSeq<>+36(SB)/4, $9
DATA expandSeq<>+40(SB)/4, $10
DATA expandSeq<>+44(SB)/4, $11
DATA expandSeq<>+48(SB)/4, $12
DATA expandSeq<>+52(SB)/4, $13
DATA expandSeq<>+56(SB)/4, $14
DATA expandSeq<>+60(SB)/4, $15
GLOBL expandSeq<>(SB), RODATA|NOPTR, $64

// half is half of the quarter round G; what is added of the message is added before.
#define half(a, b, c, d, r, s) \
	VPADDD b, a, a; \
	VPXORD a, d, d; \
	VPRORD r, d, d; \
	VPADDD d, c, c; \
	VPXORD c, b, b; \
	VPRORD s, b, b

// expand leaves the sixteen blocks in Z0 to Z15, block by block.
#define expand(id, counter) \
	VPBROADCASTD 0(id), Z16; \
	VPBROADCASTD 4(id), Z17; \
	VPBROADCASTD 8(id), Z18; \
	VPBROADCASTD 12(id), Z19; \
	VPBROADCASTD 16(id), Z20; \
	VPBROADCASTD 20(id), Z21; \
	VPBROADCASTD 24(id), Z22; \
	VPBROADCASTD 28(id), Z23; \
	VPBROADCASTD expandIV<>+0(SB), Z0; \
	VPBROADCASTD expandIV<>+4(SB), Z1; \
	VPBROADCASTD expandIV<>+8(SB), Z2; \
	VPBROADCASTD expandIV<>+12(SB), Z3; \
	VPBROADCASTD expandIV<>+16(SB), Z4; \
	VPBROADCASTD expandIV<>+20(SB), Z5; \
	VPBROADCASTD expandIV<>+24(SB), Z6; \
	VPBROADCASTD expandIV<>+28(SB), Z7; \
	VMOVDQU32 Z0, Z8; \
	VMOVDQU32 Z1, Z9; \
	VMOVDQU32 Z2, Z10; \
	VMOVDQU32 Z3, Z11; \
	VPBROADCASTD counter, Z12; \
	VPADDD expandSeq<>(SB), Z12, Z12; \
	VPXORD Z13, Z13, Z13; \
	VPBROADCASTD expandIV<>+32(SB), Z14; \
	VPBROADCASTD expandIV<>+36(SB), Z15; \
	VPADDD Z16, Z0, Z0; \
	VPADDD Z18, Z1, Z1; \
	VPADDD Z20, Z2, Z2; \
	VPADDD Z22, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z17, Z0, Z0; \
	VPADDD Z19, Z1, Z1; \
	VPADDD Z21, Z2, Z2; \
	VPADDD Z23, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	VPADDD Z18, Z0, Z0; \
	VPADDD Z19, Z1, Z1; \
	VPADDD Z23, Z2, Z2; \
	VPADDD Z20, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z22, Z0, Z0; \
	VPADDD Z16, Z2, Z2; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z17, Z0, Z0; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z21, Z1, Z1; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	VPADDD Z19, Z0, Z0; \
	VPADDD Z23, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z20, Z0, Z0; \
	VPADDD Z18, Z2, Z2; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z22, Z0, Z0; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z21, Z0, Z0; \
	VPADDD Z16, Z1, Z1; \
	VPADDD Z17, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z23, Z0, Z0; \
	VPADDD Z19, Z2, Z2; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z20, Z0, Z0; \
	VPADDD Z21, Z2, Z2; \
	VPADDD Z17, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z16, Z0, Z0; \
	VPADDD Z18, Z1, Z1; \
	VPADDD Z22, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z23, Z0, Z0; \
	VPADDD Z21, Z1, Z1; \
	VPADDD Z16, Z2, Z2; \
	VPADDD Z22, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z18, Z0, Z0; \
	VPADDD Z19, Z1, Z1; \
	VPADDD Z17, Z2, Z2; \
	VPADDD Z20, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z21, Z1, Z1; \
	VPADDD Z17, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z16, Z1, Z1; \
	VPADDD Z18, Z2, Z2; \
	VPADDD Z20, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z19, Z0, Z0; \
	VPADDD Z22, Z2, Z2; \
	VPADDD Z23, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	VPADDD Z21, Z1, Z1; \
	VPADDD Z17, Z2, Z2; \
	half(Z0, Z4, Z8, Z12, $16, $12); \
	half(Z1, Z5, Z9, Z13, $16, $12); \
	half(Z2, Z6, Z10, Z14, $16, $12); \
	half(Z3, Z7, Z11, Z15, $16, $12); \
	VPADDD Z16, Z1, Z1; \
	VPADDD Z22, Z3, Z3; \
	half(Z0, Z4, Z8, Z12, $8, $7); \
	half(Z1, Z5, Z9, Z13, $8, $7); \
	half(Z2, Z6, Z10, Z14, $8, $7); \
	half(Z3, Z7, Z11, Z15, $8, $7); \
	VPADDD Z18, Z1, Z1; \
	VPADDD Z19, Z2, Z2; \
	VPADDD Z23, Z3, Z3; \
	half(Z0, Z5, Z10, Z15, $16, $12); \
	half(Z1, Z6, Z11, Z12, $16, $12); \
	half(Z2, Z7, Z8, Z13, $16, $12); \
	half(Z3, Z4, Z9, Z14, $16, $12); \
	VPADDD Z20, Z2, Z2; \
	half(Z0, Z5, Z10, Z15, $8, $7); \
	half(Z1, Z6, Z11, Z12, $8, $7); \
	half(Z2, Z7, Z8, Z13, $8, $7); \
	half(Z3, Z4, Z9, Z14, $8, $7); \
	VPXORD Z8, Z0, Z0; \
	VPXORD Z9, Z1, Z1; \
	VPXORD Z10, Z2, Z2; \
	VPXORD Z11, Z3, Z3; \
	VPXORD Z12, Z4, Z4; \
	VPXORD Z13, Z5, Z5; \
	VPXORD Z14, Z6, Z6; \
	VPXORD Z15, Z7, Z7; \
	VPXORD.BCST expandIV<>+0(SB), Z8, Z8; \
	VPXORD.BCST expandIV<>+4(SB), Z9, Z9; \
	VPXORD.BCST expandIV<>+8(SB), Z10, Z10; \
	VPXORD.BCST expandIV<>+12(SB), Z11, Z11; \
	VPXORD.BCST expandIV<>+16(SB), Z12, Z12; \
	VPXORD.BCST expandIV<>+20(SB), Z13, Z13; \
	VPXORD.BCST expandIV<>+24(SB), Z14, Z14; \
	VPXORD.BCST expandIV<>+28(SB), Z15, Z15; \
	VPUNPCKLDQ Z1, Z0, Z16; \
	VPUNPCKHDQ Z1, Z0, Z17; \
	VPUNPCKLDQ Z3, Z2, Z18; \
	VPUNPCKHDQ Z3, Z2, Z19; \
	VPUNPCKLDQ Z5, Z4, Z20; \
	VPUNPCKHDQ Z5, Z4, Z21; \
	VPUNPCKLDQ Z7, Z6, Z22; \
	VPUNPCKHDQ Z7, Z6, Z23; \
	VPUNPCKLDQ Z9, Z8, Z24; \
	VPUNPCKHDQ Z9, Z8, Z25; \
	VPUNPCKLDQ Z11, Z10, Z26; \
	VPUNPCKHDQ Z11, Z10, Z27; \
	VPUNPCKLDQ Z13, Z12, Z28; \
	VPUNPCKHDQ Z13, Z12, Z29; \
	VPUNPCKLDQ Z15, Z14, Z30; \
	VPUNPCKHDQ Z15, Z14, Z31; \
	VPUNPCKLQDQ Z18, Z16, Z0; \
	VPUNPCKHQDQ Z18, Z16, Z1; \
	VPUNPCKLQDQ Z19, Z17, Z2; \
	VPUNPCKHQDQ Z19, Z17, Z3; \
	VPUNPCKLQDQ Z22, Z20, Z4; \
	VPUNPCKHQDQ Z22, Z20, Z5; \
	VPUNPCKLQDQ Z23, Z21, Z6; \
	VPUNPCKHQDQ Z23, Z21, Z7; \
	VPUNPCKLQDQ Z26, Z24, Z8; \
	VPUNPCKHQDQ Z26, Z24, Z9; \
	VPUNPCKLQDQ Z27, Z25, Z10; \
	VPUNPCKHQDQ Z27, Z25, Z11; \
	VPUNPCKLQDQ Z30, Z28, Z12; \
	VPUNPCKHQDQ Z30, Z28, Z13; \
	VPUNPCKLQDQ Z31, Z29, Z14; \
	VPUNPCKHQDQ Z31, Z29, Z15; \
	VSHUFI32X4 $0x88, Z4, Z0, Z16; \
	VSHUFI32X4 $0xdd, Z4, Z0, Z17; \
	VSHUFI32X4 $0x88, Z12, Z8, Z18; \
	VSHUFI32X4 $0xdd, Z12, Z8, Z19; \
	VSHUFI32X4 $0x88, Z5, Z1, Z20; \
	VSHUFI32X4 $0xdd, Z5, Z1, Z21; \
	VSHUFI32X4 $0x88, Z13, Z9, Z22; \
	VSHUFI32X4 $0xdd, Z13, Z9, Z23; \
	VSHUFI32X4 $0x88, Z6, Z2, Z24; \
	VSHUFI32X4 $0xdd, Z6, Z2, Z25; \
	VSHUFI32X4 $0x88, Z14, Z10, Z26; \
	VSHUFI32X4 $0xdd, Z14, Z10, Z27; \
	VSHUFI32X4 $0x88, Z7, Z3, Z28; \
	VSHUFI32X4 $0xdd, Z7, Z3, Z29; \
	VSHUFI32X4 $0x88, Z15, Z11, Z30; \
	VSHUFI32X4 $0xdd, Z15, Z11, Z31; \
	VSHUFI32X4 $0x88, Z18, Z16, Z0; \
	VSHUFI32X4 $0xdd, Z18, Z16, Z8; \
	VSHUFI32X4 $0x88, Z19, Z17, Z4; \
	VSHUFI32X4 $0xdd, Z19, Z17, Z12; \
	VSHUFI32X4 $0x88, Z22, Z20, Z1; \
	VSHUFI32X4 $0xdd, Z22, Z20, Z9; \
	VSHUFI32X4 $0x88, Z23, Z21, Z5; \
	VSHUFI32X4 $0xdd, Z23, Z21, Z13; \
	VSHUFI32X4 $0x88, Z26, Z24, Z2; \
	VSHUFI32X4 $0xdd, Z26, Z24, Z10; \
	VSHUFI32X4 $0x88, Z27, Z25, Z6; \
	VSHUFI32X4 $0xdd, Z27, Z25, Z14; \
	VSHUFI32X4 $0x88, Z30, Z28, Z3; \
	VSHUFI32X4 $0xdd, Z30, Z28, Z11; \
	VSHUFI32X4 $0x88, Z31, Z29, Z7; \
	VSHUFI32X4 $0xdd, Z31, Z29, Z15

// func addExpansion(h *LtHash, id *ID)
TEXT ·addExpansion(SB), NOSPLIT, $0-16
	MOVQ h+0(FP), DI
	MOVQ id+8(FP), SI
	XORL AX, AX
	MOVQ $2, CX

blocks:
	expand(SI, AX)
	VPADDW 0(DI), Z0, Z0
	VMOVDQU64 Z0, 0(DI)
	VPADDW 64(DI), Z1, Z1
	VMOVDQU64 Z1, 64(DI)
	VPADDW 128(DI), Z2, Z2
	VMOVDQU64 Z2, 128(DI)
	VPADDW 192(DI), Z3, Z3
	VMOVDQU64 Z3, 192(DI)
	VPADDW 256(DI), Z4, Z4
	VMOVDQU64 Z4, 256(DI)
	VPADDW 320(DI), Z5, Z5
	VMOVDQU64 Z5, 320(DI)
	VPADDW 384(DI), Z6, Z6
	VMOVDQU64 Z6, 384(DI)
	VPADDW 448(DI), Z7, Z7
	VMOVDQU64 Z7, 448(DI)
	VPADDW 512(DI), Z8, Z8
	VMOVDQU64 Z8, 512(DI)
	VPADDW 576(DI), Z9, Z9
	VMOVDQU64 Z9, 576(DI)
	VPADDW 640(DI), Z10, Z10
	VMOVDQU64 Z10, 640(DI)
	VPADDW 704(DI), Z11, Z11
	VMOVDQU64 Z11, 704(DI)
	VPADDW 768(DI), Z12, Z12
	VMOVDQU64 Z12, 768(DI)
	VPADDW 832(DI), Z13, Z13
	VMOVDQU64 Z13, 832(DI)
	VPADDW 896(DI), Z14, Z14
	VMOVDQU64 Z14, 896(DI)
	VPADDW 960(DI), Z15, Z15
	VMOVDQU64 Z15, 960(DI)
	ADDQ $1024, DI
	ADDL $16, AX
	DECQ CX
	JNZ blocks
	VZEROUPPER
	RET

// func subExpansion(h *LtHash, id *ID)
TEXT ·subExpansion(SB), NOSPLIT, $0-16
	MOVQ h+0(FP), DI
	MOVQ id+8(FP), SI
	XORL AX, AX
	MOVQ $2, CX

blocks:
	expand(SI, AX)
	VMOVDQU64 0(DI), Z16
	VPSUBW Z0, Z16, Z0
	VMOVDQU64 Z0, 0(DI)
	VMOVDQU64 64(DI), Z17
	VPSUBW Z1, Z17, Z1
	VMOVDQU64 Z1, 64(DI)
	VMOVDQU64 128(DI), Z18
	VPSUBW Z2, Z18, Z2
	VMOVDQU64 Z2, 128(DI)
	VMOVDQU64 192(DI), Z19
	VPSUBW Z3, Z19, Z3
	VMOVDQU64 Z3, 192(DI)
	VMOVDQU64 256(DI), Z20
	VPSUBW Z4, Z20, Z4
	VMOVDQU64 Z4, 256(DI)
	VMOVDQU64 320(DI), Z21
	VPSUBW Z5, Z21, Z5
	VMOVDQU64 Z5, 320(DI)
	VMOVDQU64 384(DI), Z22
	VPSUBW Z6, Z22, Z6
	VMOVDQU64 Z6, 384(DI)
	VMOVDQU64 448(DI), Z23
	VPSUBW Z7, Z23, Z7
	VMOVDQU64 Z7, 448(DI)
	VMOVDQU64 512(DI), Z24
	VPSUBW Z8, Z24, Z8
	VMOVDQU64 Z8, 512(DI)
	VMOVDQU64 576(DI), Z25
	VPSUBW Z9, Z25, Z9
	VMOVDQU64 Z9, 576(DI)
	VMOVDQU64 640(DI), Z26
	VPSUBW Z10, Z26, Z10
	VMOVDQU64 Z10, 640(DI)
	VMOVDQU64 704(DI), Z27
	VPSUBW Z11, Z27, Z11
	VMOVDQU64 Z11, 704(DI)
	VMOVDQU64 768(DI), Z28
	VPSUBW Z12, Z28, Z12
	VMOVDQU64 Z12, 768(DI)
	VMOVDQU64 832(DI), Z29
	VPSUBW Z13, Z29, Z13
	VMOVDQU64 Z13, 832(DI)
	VMOVDQU64 896(DI), Z30
	VPSUBW Z14, Z30, Z14
	VMOVDQU64 Z14, 896(DI)
	VMOVDQU64 960(DI), Z31
	VPSUBW Z15, Z31, Z15
	VMOVDQU64 Z15, 960(DI)
	ADDQ $1024, DI
	ADDL $16, AX
	DECQ CX
	JNZ blocks
	VZEROUPPER
	RET
