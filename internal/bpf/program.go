package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// The programs run on the octets from the IP header on, and answer 1 or 0. They are
// written for headers that are plain: IPv4 without options, IPv6 without extensions. Of
// others they say no.

// Offsets from the frame pointer, in octets.
const (
	headerAt = -40  // the first 40 octets
	tcpAt    = -64  // the first 20 of the TCP header
	keyAt    = -104 // source, destination, and a port in a word: of a SYN, the key of its grant
	indexAt  = -112
	octetAt  = -120
	mixedAt  = -128
	portAt   = -136
)

// maps are what the programs share with each other and with user space.
type maps struct{ grants, closing, answers, ring int }

// Fields of the kernel's struct __sk_buff (bpf.h).
const (
	skbLen     = 0
	skbIfindex = 40
)

const (
	ipv4Len, ipv6Len, tcpLen = 20, 40, 20

	plainIPv4 = 0x45 // version 4, five words of header
	protoTCP  = 6

	seqAt    = tcpAt + 4
	ackAt    = tcpAt + 8
	flagsAt  = tcpAt + 13
	offsetAt = tcpAt + 12 // of the payload, in words, in the upper four bits
)

// The kinds of TCP options that the program has to know.
const (
	optEnd, optNOP, optFastOpen = 0, 1, 34
	optExperiment1              = 253
	optExperiment2              = 254
)

// maxOptions is how many options of a SYN are looked at. Systems send about five, and a
// word of padding.
const maxOptions = 12

// code is a program that is being written.
type code struct {
	asm.Instructions
	label   string // of the next instruction
	options int    // that are looked at so far
}

func (c *code) add(list ...asm.Instruction) {
	for _, i := range list {
		if c.label != "" {
			i, c.label = i.WithSymbol(c.label), ""
		}
		c.Instructions = append(c.Instructions, i)
	}
}

// load reads n octets from offset, a register or a number, to the frame.
func (c *code) load(offset asm.Instruction, to int32, n int32) {
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		offset, // into R2
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to),
		asm.Mov.Imm(asm.R4, n),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "no"),
	)
}

func at(offset int32) asm.Instruction { return asm.Mov.Imm(asm.R2, offset) }

// exchange has a double word become src if it is R0, and R0 what it was. The library
// (v0.22.0) encodes the operation from the constant, which it does not set.
func exchange(dst, src asm.Register, offset int16) asm.Instruction {
	i := asm.CmpXchg.Mem(dst, src, asm.DWord, offset)
	i.Constant = int64(asm.CmpXchg >> 8)
	return i
}

// answer ends the program.
func (c *code) answer(label string, a int32) {
	c.label = label
	c.add(asm.Mov.Imm(asm.R0, a), asm.Return())
}

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

// parse reads the headers: the addresses to where the key is, the length of the packet to
// R8 and that of its IP header to R9. Conntrack has put fragments together.
func (c *code) parse() {
	c.add(asm.Mov.Reg(asm.R6, asm.R1))
	c.load(at(0), headerAt, ipv6Len)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, headerAt, asm.Byte),
		asm.JEq.Imm(asm.R1, plainIPv4, "ipv4"),
		asm.RSh.Imm(asm.R1, 4),
		asm.JNE.Imm(asm.R1, 6, "no"),
	)
	c.ipv6()
	c.ipv4()
	c.label = "tcp"
}

// opens is the program that asks for a grant of a SYN, or of the SYN+ACK that answers one.
func opens(m maps, seed uint64) asm.Instructions {
	c := &code{}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.PSH|packet.ACK|packet.URG)),
		asm.JEq.Imm(asm.R1, int32(packet.SYN), "syn"),
		asm.JNE.Imm(asm.R1, int32(packet.SYN|packet.ACK), "no"),
	)
	c.synack(m, seed)
	c.syn(m, seed)
	c.answer("no", 0)
	return c.Instructions
}

func (c *code) ipv6() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, headerAt+6, asm.Byte),
		asm.JNE.Imm(asm.R1, protoTCP, "no"),
	)
	for i := int16(0); i < 32; i += 8 {
		c.add(asm.LoadMem(asm.R1, asm.RFP, headerAt+8+i, asm.DWord), asm.StoreMem(asm.RFP, keyAt+i, asm.R1, asm.DWord))
	}
	c.add(
		asm.LoadMem(asm.R8, asm.RFP, headerAt+4, asm.Half), asm.HostTo(asm.BE, asm.R8, asm.Half),
		asm.Add.Imm(asm.R8, ipv6Len),
		asm.Mov.Imm(asm.R9, ipv6Len),
	)
	c.load(at(ipv6Len), tcpAt, tcpLen)
	c.add(asm.Ja.Label("tcp"))
}

func (c *code) ipv4() {
	c.label = "ipv4"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, headerAt+9, asm.Byte),
		asm.JNE.Imm(asm.R1, protoTCP, "no"),
	)
	for i := int16(0); i < 2; i++ {
		c.add(
			asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.RFP, keyAt+16*i, asm.R2, asm.DWord),
			asm.Mov.Imm32(asm.R2, -0x10000), // octets 0, 0, 0xff, 0xff
			asm.StoreMem(asm.RFP, keyAt+16*i+8, asm.R2, asm.Word),
			asm.LoadMem(asm.R1, asm.RFP, headerAt+12+4*i, asm.Word),
			asm.StoreMem(asm.RFP, keyAt+16*i+12, asm.R1, asm.Word),
		)
	}
	c.add(
		asm.LoadMem(asm.R8, asm.RFP, headerAt+2, asm.Half), asm.HostTo(asm.BE, asm.R8, asm.Half),
		asm.Mov.Imm(asm.R9, ipv4Len),
	)
	c.load(at(ipv4Len), tcpAt, tcpLen)
}

// synack looks for the grant with the addresses the other way round.
func (c *code) synack(m maps, seed uint64) {
	for i := int16(0); i < 16; i += 8 {
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, keyAt+i, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, keyAt+16+i, asm.DWord),
			asm.StoreMem(asm.RFP, keyAt+i, asm.R2, asm.DWord), asm.StoreMem(asm.RFP, keyAt+16+i, asm.R1, asm.DWord),
		)
	}
	c.find(m, seed, tcpAt)
	c.add(
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(grant.Slot{}.ReplyDev)), asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbIfindex, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
	)
	c.plain("answered")
	c.answer("answered", 1)
}

// syn takes one off what is left, unless the connection may be one that is closing.
func (c *code) syn(m maps, seed uint64) {
	c.label = "syn"
	c.find(m, seed, tcpAt+2)
	syns := int16(unsafe.Offsetof(grant.Slot{}.SYNs))
	c.add(
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(grant.Slot{}.InDev)), asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbIfindex, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
		asm.LoadMem(asm.R1, asm.R7, syns, asm.Word),
		asm.JSLE.Imm32(asm.R1, 0, "no"),
	)
	c.plain("plain")
	c.label = "plain"
	c.remembered(m.closing, seed)
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

// find puts the slot of the key into R7, or says no. The server's port is in the frame at
// port.
func (c *code) find(m maps, seed uint64, port int16) {
	c.mix(seed, port, keyAt, keyAt+8, keyAt+16, keyAt+24)
	c.add(asm.And.Imm(asm.R1, grant.Slots-1))
	c.element(m.grants, "no")
	c.add(asm.Mov.Reg(asm.R7, asm.R0))
	c.same("no")
}

// same compares the slot at R7 with the key.
func (c *code) same(otherwise string) {
	for i := int16(0); i < 32; i += 8 {
		c.add(
			asm.LoadMem(asm.R1, asm.R7, i, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, keyAt+i, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, otherwise),
		)
	}
	c.add(
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(grant.Slot{}.Port)), asm.Half),
		asm.LoadMem(asm.R2, asm.RFP, keyAt+32, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, otherwise),
	)
}

// mix hashes the words of the frame and a port of it into R1, as package grant does.
func (c *code) mix(seed uint64, port int16, words ...int16) {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, port, asm.Half),
		asm.StoreMem(asm.RFP, keyAt+32, asm.R1, asm.DWord),
		asm.LoadImm(asm.R1, int64(seed), asm.DWord),
		asm.LoadImm(asm.R3, grant.Mix-1<<64, asm.DWord),
	)
	for _, word := range append(words, keyAt+32) {
		c.add(
			asm.LoadMem(asm.R2, asm.RFP, word, asm.DWord),
			asm.Xor.Reg(asm.R1, asm.R2), asm.Mul.Reg(asm.R1, asm.R3),
			asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 32), asm.Xor.Reg(asm.R1, asm.R2),
		)
	}
}

// element puts the address of the element with the number in R1 into R0.
func (c *code) element(of int, otherwise string) {
	c.add(
		asm.StoreMem(asm.RFP, indexAt, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, of),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, indexAt),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, otherwise),
	)
}

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
func (c *code) remembered(in int, seed uint64) {
	c.mix(seed, tcpAt, keyAt, keyAt+8)
	c.add(asm.StoreMem(asm.RFP, mixedAt, asm.R1, asm.DWord))
	c.mix(seed, tcpAt+2, keyAt+16, keyAt+24)
	c.add(
		asm.LoadMem(asm.R2, asm.RFP, mixedAt, asm.DWord), asm.Add.Reg(asm.R1, asm.R2),
		asm.Mov.Reg(asm.R9, asm.R1), asm.RSh.Imm(asm.R9, 32),
		asm.And.Imm(asm.R1, memories-1),
	)
	c.element(in, "no")
}

// plain goes on at done for a packet that means nothing to an application: it has no
// payload, no option of TCP Fast Open, and none that is not whole.
func (c *code) plain(done string) {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, offsetAt, asm.Byte),
		asm.RSh.Imm(asm.R1, 4), asm.LSh.Imm(asm.R1, 2),
		asm.Add.Reg(asm.R1, asm.R9),
		asm.JNE.Reg(asm.R1, asm.R8, "no"),
		asm.Add.Imm(asm.R9, tcpLen), // now where the next option is
	)
	for range maxOptions {
		c.option(done)
	}
	c.add(
		asm.JEq.Reg(asm.R9, asm.R8, done),
		asm.Ja.Label("no"), // more options than that, or one that is not whole
	)
}

// option goes past the option at R9, or to done after the last.
func (c *code) option(done string) {
	c.options++
	next := fmt.Sprint("option", c.options)
	c.add(asm.JEq.Reg(asm.R9, asm.R8, done), asm.JGT.Reg(asm.R9, asm.R8, "no"))
	c.load(asm.Mov.Reg(asm.R2, asm.R9), octetAt, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Byte),
		asm.JEq.Imm(asm.R1, optEnd, done),
		asm.Add.Imm(asm.R9, 1),
		asm.JEq.Imm(asm.R1, optNOP, next),
	)
	for _, kind := range []int32{optFastOpen, optExperiment1, optExperiment2} {
		c.add(asm.JEq.Imm(asm.R1, kind, "no"))
	}
	c.load(asm.Mov.Reg(asm.R2, asm.R9), octetAt, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Byte),
		asm.JLT.Imm(asm.R1, 2, "no"),
		asm.Add.Reg(asm.R9, asm.R1), asm.Sub.Imm(asm.R9, 1),
	)
	c.label = next
	c.add(asm.Mov.Reg(asm.R9, asm.R9)) // the label's
}

// Layout of a record.
const (
	recordIfindex    = 0
	recordLen        = 4 // how much of the packet is here
	recordSlot       = 8 // by which grant it is admitted,
	recordGeneration = 12
	recordPacket     = 16
	recordSize       = recordPacket + maxRecorded

	noGrant = -1 // in place of a slot

	// maxRecorded octets have an IPv6 and a TCP header with all options a packet can have.
	maxRecorded = 112
	minRecorded = ipv4Len + tcpLen

	noWakeup = 1 // BPF_RB_NO_WAKEUP
)

// reserve takes room in the ring for a record, to R8, and puts the packet there.
func (c *code) reserve(m maps) {
	c.add(
		asm.LoadMem(asm.R9, asm.R6, skbLen, asm.Word),
		asm.JLE.Imm(asm.R9, maxRecorded, "whole"),
		asm.Mov.Imm(asm.R9, maxRecorded),
	)
	c.label = "whole"
	c.add(
		asm.JLT.Imm(asm.R9, minRecorded, "no"),
		asm.LoadMapPtr(asm.R1, m.ring),
		asm.Mov.Imm(asm.R2, recordSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "no"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word),
		asm.StoreMem(asm.R8, recordIfindex, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, recordLen, asm.R9, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R8), asm.Add.Imm(asm.R3, recordPacket),
		asm.Mov.Reg(asm.R4, asm.R9),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "discard"),
	)
}

// submit leaves the record to the reader, or, at discard, to nobody.
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
	c.label = "no"
}

// records is the program that puts a packet into the ring, and remembers a FIN, or a
// server's answer.
func records(m maps, seed uint64) asm.Instructions {
	c := &code{}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.Mov.Reg(asm.R2, asm.R1), asm.And.Imm(asm.R2, int32(packet.FIN)),
		asm.JNE.Imm(asm.R2, 0, "fin"),
		asm.And.Imm(asm.R1, int32(packet.SYN|packet.ACK)),
		asm.JNE.Imm(asm.R1, int32(packet.SYN|packet.ACK), "put"),
	)
	c.remembered(m.answers, seed)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, wordAt, asm.R1, asm.Word),
		asm.StoreMem(asm.R0, tagAt, asm.R9, asm.Word),
		asm.Ja.Label("put"),
	)
	c.label = "fin"
	c.remembered(m.closing, seed)
	c.add(
		asm.StoreMem(asm.R0, tagAt, asm.R9, asm.Word),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.RSh.Imm(asm.R0, stampShift),
		asm.StoreMem(asm.R7, wordAt, asm.R0, asm.Word),
	)
	c.label = "put"
	c.reserve(m)
	c.add(
		asm.Mov.Imm(asm.R1, noGrant),
		asm.StoreMem(asm.R8, recordSlot, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, recordGeneration, asm.R1, asm.Word),
	)
	c.submit()
	c.add(asm.Mov.Imm(asm.R1, grant.Slots)) // the header
	c.element(m.grants, "end")
	c.add(
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.Word, int16(unsafe.Offsetof(grant.Header{}.Missed))),
	)
	c.answer("end", 0)
	return c.Instructions
}

// admits is the program that takes an admission for the ACK that completes a handshake, and
// records it: an ACK of exactly what the server has answered, which conntrack does not
// demand, and one that the decoder in Go reads, or nobody would know of its connection. It
// does so once, or not at all: if another takes one at the same time, the ACK is queued.
func admits(m maps, seed uint64) asm.Instructions {
	admissions := int16(unsafe.Offsetof(grant.Slot{}.Admissions))
	c := &code{}
	c.parse()
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.ACK|packet.URG)),
		asm.JNE.Imm(asm.R1, int32(packet.ACK), "no"),
	)
	c.find(m, seed, tcpAt+2)
	c.add(
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(grant.Slot{}.InDev)), asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbIfindex, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
		asm.LoadMem(asm.R1, asm.R7, admissions, asm.Word), // the lower half
		asm.JEq.Imm(asm.R1, 0, "no"),
	)
	c.plain("plain")
	c.label = "plain"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, indexAt, asm.Word), asm.StoreMem(asm.RFP, octetAt, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+32, asm.DWord), asm.StoreMem(asm.RFP, portAt, asm.R1, asm.DWord),
	)
	c.remembered(m.answers, seed)
	c.add(
		asm.LoadMem(asm.R1, asm.R0, tagAt, asm.Word), asm.JNE.Reg(asm.R1, asm.R9, "no"),
		asm.LoadMem(asm.R1, asm.R0, wordAt, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, ackAt, asm.Word), asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
		asm.LoadMem(asm.R1, asm.RFP, portAt, asm.DWord), asm.StoreMem(asm.RFP, keyAt+32, asm.R1, asm.DWord),
	)
	c.reserve(m)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.DWord),
		asm.StoreMem(asm.R8, recordSlot, asm.R1, asm.Word),
		asm.LoadMem(asm.R9, asm.R7, admissions, asm.DWord),
	)
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
	c.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return c.Instructions
}
