package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// opens is the program that asks for a grant of a SYN, or of the SYN+ACK that answers one.
func opens(s shared) asm.Instructions {
	c := &code{shared: s}
	c.parse()
	c.control()
	c.add(
		asm.JEq.Imm(asm.R1, int32(packet.SYN), "syn"),
		asm.JNE.Imm(asm.R1, int32(packet.SYN|packet.ACK), "no"),
	)
	c.synack()
	c.syn()
	c.answer("no", 0)
	return c.Instructions
}

// synack looks for the grant with the addresses the other way round.
func (c *code) synack() {
	for i := int16(0); i < 16; i += 8 {
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, keyAt+i, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, keyAt+16+i, asm.DWord),
			asm.StoreMem(asm.RFP, keyAt+i, asm.R2, asm.DWord), asm.StoreMem(asm.RFP, keyAt+16+i, asm.R1, asm.DWord),
		)
	}
	c.find(tcpAt)
	c.cameBy(unsafe.Offsetof(grant.Slot{}.ReplyDev))
	c.plain("answered")
	c.answer("answered", 1)
}

// syn takes one off what is left, unless the connection may be one that is closing.
func (c *code) syn() {
	c.label = "syn"
	c.find(tcpAt + 2)
	c.cameBy(unsafe.Offsetof(grant.Slot{}.InDev))
	syns := int16(unsafe.Offsetof(grant.Slot{}.SYNs))
	c.add(
		asm.LoadMem(asm.R1, asm.R7, syns, asm.Word),
		asm.JSLE.Imm32(asm.R1, 0, "no"),
	)
	c.plain("plain")
	c.label = "plain"
	c.remembered(c.closing)
	c.add(
		asm.LoadMem(asm.R1, asm.R0, tagAt, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R9, "granted"),
		asm.LoadMem(asm.R8, asm.R0, wordAt, asm.Word),
		asm.FnKtimeGetNs.Call(),
		asm.RSh.Imm(asm.R0, stampShift),
		asm.Sub.Reg32(asm.R0, asm.R8),
		asm.JLT.Imm(asm.R0, grace, "no"),
	)
	c.label = "granted"
	c.add(
		asm.Mov.Imm(asm.R1, -1),
		asm.AddAtomic.Mem(asm.R7, asm.R1, asm.Word, syns), // two processors may come to -1
		asm.Mov.Imm(asm.R0, 1), asm.Return(),
	)
}

// find puts the slot of the key into R7, and its number into the frame, or says no. The
// server's port is in the frame at port.
func (c *code) find(port int16) {
	c.mix(port, keyAt+32, keyAt, keyAt+8, keyAt+16, keyAt+24)
	c.add(asm.And.Imm(asm.R1, grant.Slots-1), asm.StoreMem(asm.RFP, slotAt, asm.R1, asm.DWord))
	c.element(c.grants, "no")
	c.add(asm.Mov.Reg(asm.R7, asm.R0))
	c.same("no")
}

// same compares the slot at R7 with the key.
func (c *code) same(otherwise string) {
	for i := int16(0); i < 32; i += 8 {
		c.unlike(asm.LoadMem(asm.R1, asm.R7, i, asm.DWord), keyAt+i, otherwise)
	}
	c.unlike(asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(grant.Slot{}.Port)), asm.Half), keyAt+32, otherwise)
}
