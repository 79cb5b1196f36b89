package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// Offsets from the frame pointer of the program that looks whether an ACK proves a cookie, in
// octets, where the one that answers has something else.
const (
	repeatedAt = newTCPAt     // the number that would be the cookie
	lowAt      = newTCPAt + 8 // and its low octet, unmasked
)

// unproven is the program that says yes to an ACK without a state that repeats no cookie,
// while such are not to come to user space, and counts it. It is asked about what belongs to
// no connection that conntrack knows.
func unproven(a answering) asm.Instructions {
	c := &code{shared: shared{seed: a.seed}}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.ACK)),
		asm.JNE.Imm(asm.R1, int32(packet.ACK), "no"),
	)
	c.service(a.services)
	c.add(
		asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(syncookie.Header{}.Demands)), asm.Word),
		asm.JEq.Imm(asm.R1, 0, "no"),
	)
	c.unknown(a.cells)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, ackAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.Sub.Imm(asm.R1, 1), asm.Mov.Reg32(asm.R1, asm.R1), asm.StoreMem(asm.RFP, repeatedAt, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 24), asm.Xor.Reg(asm.R1, asm.R2), asm.And.Imm(asm.R1, 0xff),
		asm.StoreMem(asm.RFP, lowAt, asm.R1, asm.DWord),
	)
	for _, before := range []int32{1, 0} { // as the engine has it: a client may probe the zero window
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.Sub.Imm(asm.R1, before), asm.Mov.Reg32(asm.R1, asm.R1), asm.StoreMem(asm.RFP, clientAt, asm.R1, asm.DWord),
			asm.LoadMem(asm.R9, asm.RFP, lowAt, asm.DWord),
		)
		c.makeCookie()
		c.add(asm.LoadMem(asm.R2, asm.RFP, repeatedAt, asm.DWord), asm.JEq.Reg(asm.R1, asm.R2, "no"))
	}
	c.add(
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R7, asm.R1, asm.DWord, int16(unsafe.Offsetof(syncookie.Service{}.Unproven))),
	)
	c.answer("yes", 1)
	c.answer("no", 0)
	return c.Instructions
}
