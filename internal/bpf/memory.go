package bpf

import (
	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/grant"
)

// The kernel remembers by the hash of its tuple which connection has sent a FIN, and when,
// in 2^20 ns, modulo 2^32; and which has been answered, and what acknowledges that. One has
// the place of another at times.
const (
	memories   = 1 << 16
	wordAt     = 0
	tagAt      = 4
	memoryLen  = 8
	stampShift = 20
	grace      = int32(grant.Grace >> stampShift)
)

// remembered puts the address of what is remembered of the packet's tuple into R0, and the
// tag of the tuple into R9: the same for both directions.
func (c *code) remembered(in int) {
	c.mix(tcpAt, portAt, keyAt, keyAt+8)
	c.add(asm.StoreMem(asm.RFP, mixedAt, asm.R1, asm.DWord))
	c.mix(tcpAt+2, portAt, keyAt+16, keyAt+24)
	c.add(
		asm.LoadMem(asm.R2, asm.RFP, mixedAt, asm.DWord), asm.Add.Reg(asm.R1, asm.R2),
		asm.Mov.Reg(asm.R9, asm.R1), asm.RSh.Imm(asm.R9, 32),
		asm.And.Imm(asm.R1, memories-1),
	)
	c.element(in, "no")
}
