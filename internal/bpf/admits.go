package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// ask is the program that rules refer to in place of one that grants: it goes on with that
// one as long as somebody has the array of them open. With the daemon that goes, and all
// that it has granted.
func ask(array, number int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R2, array),
		asm.Mov.Imm(asm.R3, int32(number)),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}
}

// admits is the program that takes an admission for the ACK that completes a handshake, and
// records it: an ACK of exactly what the server has answered, which conntrack does not
// demand, and one that the decoder in Go reads, or nobody would know of its connection. It
// does so once, or not at all: if another takes one at the same time, the ACK is queued.
func admits(s shared) asm.Instructions {
	admissions := int16(unsafe.Offsetof(grant.Slot{}.Admissions))
	c := &code{shared: s}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.ACK|packet.URG)),
		asm.JNE.Imm(asm.R1, int32(packet.ACK), "no"),
	)
	c.find(tcpAt + 2)
	c.cameBy(unsafe.Offsetof(grant.Slot{}.InDev))
	c.add(
		asm.LoadMem(asm.R1, asm.R7, admissions, asm.Word), // the lower half
		asm.JEq.Imm(asm.R1, 0, "no"),
	)
	c.plain("plain")
	c.label = "plain"
	c.acknowledges()
	c.reserve()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, slotAt, asm.DWord),
		asm.StoreMem(asm.R8, recordSlot, asm.R1, asm.Word),
	)
	c.add(fetch(asm.R7, asm.R9, admissions)...)
	c.same("discard") // and is still the same: what was taken back since has another generation
	c.add(
		asm.Mov.Reg32(asm.R1, asm.R9), asm.JEq.Imm(asm.R1, 0, "discard"),
		asm.Mov.Reg(asm.R1, asm.R9), asm.RSh.Imm(asm.R1, 32),
		asm.StoreMem(asm.R8, recordGeneration, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R0, asm.R9),
		asm.Mov.Reg(asm.R2, asm.R9), asm.Sub.Imm(asm.R2, 1),
		exchange(asm.R7, asm.R2, admissions),
		asm.JNE.Reg(asm.R0, asm.R9, "discard"),
	)
	c.submit()
	c.answer("no", 0)
	return c.Instructions
}

// acknowledges goes on for an ACK of what its server has answered.
func (c *code) acknowledges() {
	c.remembered(c.answers)
	c.add(
		asm.LoadMem(asm.R1, asm.R0, tagAt, asm.Word), asm.JNE.Reg(asm.R1, asm.R9, "no"),
		asm.LoadMem(asm.R1, asm.R0, wordAt, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, ackAt, asm.Word), asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
	)
}
