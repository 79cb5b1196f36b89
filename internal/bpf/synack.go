package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
	"nfqfw/synproxy"
)

// segment writes the header of the answer, as wire.Append does, and has its length in R8.
// In the place of its checksum is that of the client's.
func (c *code) segment() {
	c.zero(newTCPAt, maxTCP)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Half), asm.StoreMem(asm.RFP, newTCPAt+2, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt+2, asm.Half), asm.StoreMem(asm.RFP, newTCPAt, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, cookieAt, asm.DWord), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, newTCPAt+4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.Add.Imm(asm.R1, 1),
		asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, newTCPAt+8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt+16, asm.Half), asm.StoreMem(asm.RFP, newTCPAt+16, asm.R1, asm.Half),
	)
	c.tellOptions()
	c.add(
		asm.Mov.Reg(asm.R1, asm.R8), asm.LSh.Imm(asm.R1, 2), // words, in the upper four bits
		asm.StoreMem(asm.RFP, newTCPAt+12, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, int32(packet.SYN|packet.ACK)), asm.StoreMem(asm.RFP, newTCPAt+13, asm.R1, asm.Byte),
	)
}

// tellOptions writes the options, in the order of the kernel's own, and has the length of the
// header in R8.
func (c *code) tellOptions() {
	var s syncookie.Service
	option := func(n int) int16 { return newTCPAt + tcpLen + int16(4*n) }
	c.add(
		asm.Mov.Imm(asm.R1, optMSS|lenMSS<<8), asm.StoreMem(asm.RFP, option(0), asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.MSS)), asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, option(0)+2, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, hasStampAt, asm.DWord), asm.JEq.Imm(asm.R1, 0, "noStamp"),

		asm.Mov.Imm(asm.R1, optNOP|optNOP<<8|optStamp<<16|lenStamp<<24),
		asm.LoadMem(asm.R2, asm.RFP, hasSACKAt, asm.DWord), asm.JEq.Imm(asm.R2, 0, "noSACK"),
		asm.Mov.Imm(asm.R1, optSACK|lenSACK<<8|optStamp<<16|lenStamp<<24),
	)
	c.label = "noSACK"
	c.add(
		asm.StoreMem(asm.RFP, option(1), asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, cookieAt, asm.DWord), // synproxy.Stamp
		asm.RSh.Imm(asm.R1, synproxy.StampShiftBits), asm.LSh.Imm(asm.R1, synproxy.StampShiftBits),
		asm.LoadMem(asm.R2, asm.RFP, wscaleAt, asm.DWord), asm.Or.Reg(asm.R1, asm.R2),
		asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, option(2), asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, stampAt, asm.Word), asm.StoreMem(asm.RFP, option(3), asm.R1, asm.Word),
	)
	c.scale(option(4))
	c.label = "noStamp"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, hasSACKAt, asm.DWord), asm.JEq.Imm(asm.R1, 0, "neither"),
		asm.Mov.Imm(asm.R1, optNOP|optNOP<<8|optSACK<<16|lenSACK<<24), asm.StoreMem(asm.RFP, option(1), asm.R1, asm.Word),
	)
	c.scale(option(2))
	c.label = "neither"
	c.scale(option(1))
	c.label = "written"
}

// scale writes the last option, if the client is told that windows are scaled, and goes on
// at written.
func (c *code) scale(at int16) {
	c.options++
	without := fmt.Sprint("unscaled", c.options)
	length := int32(at - newTCPAt)
	c.add(
		asm.Mov.Imm(asm.R8, length),
		asm.LoadMem(asm.R1, asm.RFP, hasWScaleAt, asm.DWord), asm.JEq.Imm(asm.R1, 0, without),
		asm.Mov.Imm(asm.R1, optNOP|optWScale<<8|lenWScale<<16), asm.StoreMem(asm.RFP, at, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(syncookie.Service{}.WScale)), asm.Byte),
		asm.StoreMem(asm.RFP, at+3, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R8, length+4),
	)
	c.label = without
	c.add(asm.Ja.Label("written"))
}

// send makes the packet the answer, and sends it.
func (c *code) send() {
	c.difference()
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMem(asm.R2, asm.RFP, tcpOffAt, asm.DWord), asm.Add.Reg(asm.R2, asm.R8),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkbChangeTail.Call(),
		asm.JNE.Imm(asm.R0, 0, "no"),
	)
	c.swapEther()
	c.ipHeader()
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMem(asm.R2, asm.RFP, tcpOffAt, asm.DWord),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, newTCPAt), asm.Mov.Reg(asm.R4, asm.R8),
	)
	c.store()
	c.checksum(asm.Mov.Imm(asm.R3, 0), asm.Mov.Reg(asm.R4, asm.R9), 0)
	c.add(asm.LoadMem(asm.R3, asm.RFP, countAt, asm.DWord), asm.JEq.Reg(asm.R3, asm.R8, "checked"))
	c.checksum(asm.HostTo(asm.BE, asm.R3, asm.Half), asm.Mov.Reg(asm.R4, asm.R8), pseudoHeader|2)
	c.label = "checked"
	c.add(
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R7, asm.R1, asm.DWord, int16(unsafe.Offsetof(syncookie.Service{}.Answered))),
		asm.LoadMem(asm.R1, asm.RFP, deviceAt, asm.DWord), asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	)
}

// difference puts into R9 what the sum of our header has more than that of the client's.
// Sums are told by their differences, as the kernel may have left the rest to an interface.
func (c *code) difference() {
	c.zero(oldTCPAt, maxTCP)
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMem(asm.R2, asm.RFP, tcpOffAt, asm.DWord),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, oldTCPAt),
		asm.LoadMem(asm.R4, asm.RFP, countAt, asm.DWord),
		asm.JLT.Imm(asm.R4, tcpLen, "no"), asm.JGT.Imm(asm.R4, maxTCP, "no"), // as is known, but not to the verifier
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "no"),
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, oldTCPAt), asm.Mov.Imm(asm.R2, maxTCP),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, newTCPAt), asm.Mov.Imm(asm.R4, maxTCP),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnCsumDiff.Call(),
		asm.Mov.Reg32(asm.R9, asm.R0),
	)
}

// swapEther sends the frame back to where it came from.
func (c *code) swapEther() {
	c.load(at(0), etherAt, addressesLen)
	const address = addressesLen / 2
	for i := int16(0); i < address; i += 2 {
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, etherAt+i, asm.Half), asm.StoreMem(asm.RFP, newEtherAt+address+i, asm.R1, asm.Half),
			asm.LoadMem(asm.R1, asm.RFP, etherAt+address+i, asm.Half), asm.StoreMem(asm.RFP, newEtherAt+i, asm.R1, asm.Half),
		)
	}
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, newEtherAt), asm.Mov.Imm(asm.R4, addressesLen),
	)
	c.store()
}

// ipHeader writes the IP header of the answer, as wire.Append does.
func (c *code) ipHeader() {
	c.add(asm.LoadMem(asm.R1, asm.RFP, headerAt, asm.Byte), asm.JNE.Imm(asm.R1, plainIPv4, "answer6"))
	const hopLimit, dontFragment = 64, 0x40
	c.add(
		asm.Mov.Imm(asm.R1, plainIPv4), asm.StoreMem(asm.RFP, ipAt, asm.R1, asm.Half),
		asm.Mov.Reg(asm.R1, asm.R8), asm.Add.Imm(asm.R1, ipv4Len), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, ipAt+2, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, dontFragment<<16), asm.StoreMem(asm.RFP, ipAt+4, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, hopLimit|protoTCP<<8), asm.StoreMem(asm.RFP, ipAt+8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+28, asm.Word), asm.StoreMem(asm.RFP, ipAt+12, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+12, asm.Word), asm.StoreMem(asm.RFP, ipAt+16, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0), asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, ipAt), asm.Mov.Imm(asm.R4, ipv4Len), asm.Mov.Imm(asm.R5, 0),
		asm.FnCsumDiff.Call(),
	)
	for range 2 { // fold the sum to 16 bits
		c.add(
			asm.Mov.Reg32(asm.R1, asm.R0), asm.RSh.Imm(asm.R1, 16), asm.And.Imm(asm.R0, 0xffff), asm.Add.Reg(asm.R0, asm.R1),
		)
	}
	c.add(
		asm.Xor.Imm(asm.R0, 0xffff), asm.StoreMem(asm.RFP, ipAt+10, asm.R0, asm.Half),
		asm.Mov.Imm(asm.R4, ipv4Len), asm.Ja.Label("addressed"),
	)
	c.label = "answer6"
	c.add(
		asm.Mov.Imm(asm.R1, 0x60), asm.StoreMem(asm.RFP, ipAt, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R8), asm.HostTo(asm.BE, asm.R1, asm.Half), asm.StoreMem(asm.RFP, ipAt+4, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, protoTCP|hopLimit<<8), asm.StoreMem(asm.RFP, ipAt+6, asm.R1, asm.Half),
	)
	c.copy(keyAt+16, ipAt+8, 16)
	c.copy(keyAt, ipAt+24, 16)
	c.add(asm.Mov.Imm(asm.R4, ipv6Len))
	c.label = "addressed"
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, etherLen),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, ipAt),
	)
	c.store()
}

// store writes R4 octets at R3 to where R2 says in the packet.
func (c *code) store() {
	c.add(
		asm.Mov.Imm(asm.R5, recomputeChecksum),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	)
}

// checksum has the TCP checksum follow a change, from R3 to R4.
func (c *code) checksum(from, to asm.Instruction, flags int32) {
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMem(asm.R2, asm.RFP, tcpOffAt, asm.DWord), asm.Add.Imm(asm.R2, 16),
		from, to,
	)
	if flags != 0 {
		c.add(asm.HostTo(asm.BE, asm.R4, asm.Half))
	}
	c.add(
		asm.Mov.Imm(asm.R5, flags),
		asm.FnL4CsumReplace.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	)
}
