package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// Layout of a record.
const (
	recordIfindex    = 0
	recordLen        = 4 // how much of the packet is here
	recordSlot       = 8 // by which grant it is admitted,
	recordGeneration = 12
	recordTime       = 16 // when: CLOCK_MONOTONIC, in ns
	recordPacket     = 24
	recordSize       = recordPacket + maxRecorded

	noGrant = -1 // in place of a slot

	// maxRecorded octets have an IPv6 and a TCP header with all options a packet can have.
	maxRecorded = 112
	minRecorded = ipv4Len + tcpLen

	noWakeup = 1 // BPF_RB_NO_WAKEUP
)

// reserve takes room in the ring for a record, to R8, and puts the packet there.
func (c *code) reserve() {
	c.add(
		asm.LoadMem(asm.R9, asm.R6, skbLen, asm.Word),
		asm.JLE.Imm(asm.R9, maxRecorded, "whole"),
		asm.Mov.Imm(asm.R9, maxRecorded),
	)
	c.label = "whole"
	c.add(
		asm.JLT.Imm(asm.R9, minRecorded, "no"),
		asm.LoadMapPtr(asm.R1, c.ring),
		asm.Mov.Imm(asm.R2, recordSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "no"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word),
		asm.StoreMem(asm.R8, recordIfindex, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, recordLen, asm.R9, asm.Word),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, recordTime, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R8), asm.Add.Imm(asm.R3, recordPacket),
		asm.Mov.Reg(asm.R4, asm.R9),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "discard"),
	)
}

// submit leaves the record to the reader, or, at discard, to nobody, and goes on.
func (c *code) submit() {
	c.add(
		asm.Mov.Reg(asm.R1, asm.R8), asm.Mov.Imm(asm.R2, noWakeup),
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, 1), asm.Return(),
	)
	c.label = "discard"
	c.add(
		asm.Mov.Reg(asm.R1, asm.R8), asm.Mov.Imm(asm.R2, noWakeup),
		asm.FnRingbufDiscard.Call(),
	)
}

// records is the program that puts a packet into the ring, and remembers a FIN, or a
// server's answer.
func records(s shared) asm.Instructions {
	c := &code{shared: s}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.Mov.Reg(asm.R2, asm.R1), asm.And.Imm(asm.R2, int32(packet.FIN)),
		asm.JNE.Imm(asm.R2, 0, "fin"),
		asm.And.Imm(asm.R1, int32(packet.SYN|packet.ACK)),
		asm.JNE.Imm(asm.R1, int32(packet.SYN|packet.ACK), "put"),
	)
	c.remembered(c.answers)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, wordAt, asm.R1, asm.Word),
		asm.StoreMem(asm.R0, tagAt, asm.R9, asm.Word),
		asm.Ja.Label("put"),
	)
	c.label = "fin"
	c.remembered(c.closing)
	c.add(
		asm.StoreMem(asm.R0, tagAt, asm.R9, asm.Word),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.RSh.Imm(asm.R0, stampShift),
		asm.StoreMem(asm.R7, wordAt, asm.R0, asm.Word),
	)
	c.label = "put"
	c.reserve()
	c.add(
		asm.Mov.Imm(asm.R1, noGrant),
		asm.StoreMem(asm.R8, recordSlot, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, recordGeneration, asm.R1, asm.Word),
	)
	c.submit()
	c.label = "no"
	c.add(asm.Mov.Imm(asm.R1, grant.Slots)) // the header
	c.element(c.grants, "end")
	c.add(
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.Word, int16(unsafe.Offsetof(grant.Header{}.Missed))),
	)
	c.answer("end", 0)
	return c.Instructions
}
