package bpf

import (
	"github.com/cilium/ebpf/asm"

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
	slotAt   = -112 // the number of the slot of that key
	indexAt  = -120
	octetAt  = -128
	mixedAt  = -136
	portAt   = -144
)

// shared are the maps that the programs share with each other and with user space, by their
// descriptors, and the seed of the hash.
type shared struct {
	grants, closing, answers, ring int
	seed                           uint64
}

// code is a program that is being written.
type code struct {
	shared
	asm.Instructions
	link    int32  // octets of a packet before its IP header
	label   string // of the next instruction
	options int    // that are looked at so far
	cookies int    // that are made so far
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

// exchange has a double word become src if it is R0, and R0 what it was.
func exchange(dst, src asm.Register, offset int16) asm.Instruction {
	return fetching(asm.CmpXchg, dst, src, offset)
}

// fetch reads a double word into to, and nothing that is read after it is older.
func fetch(dst, to asm.Register, offset int16) []asm.Instruction {
	return []asm.Instruction{asm.Mov.Imm(to, 0), fetching(asm.FetchAdd, dst, to, offset)}
}

// fetching is an atomic operation on a double word. The library (v0.22.0) encodes which it
// is from the constant, which it does not set.
func fetching(op asm.AtomicOp, dst, src asm.Register, offset int16) asm.Instruction {
	i := op.Mem(dst, src, asm.DWord, offset)
	i.Constant = int64(op >> 8)
	return i
}

// cameBy goes on for a packet that came in by the interface that the slot at R7 has in a
// field.
func (c *code) cameBy(field uintptr) {
	c.add(
		asm.LoadMem(asm.R1, asm.R7, int16(field), asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbIfindex, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "no"),
	)
}

// unlike goes to otherwise unless what is loaded into R1 is a double word of the frame.
func (c *code) unlike(load asm.Instruction, at int16, otherwise string) {
	c.add(load, asm.LoadMem(asm.R2, asm.RFP, at, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, otherwise))
}

// zero clears n octets of the frame, in whole double words.
func (c *code) zero(at, n int16) {
	c.add(asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < n; i += 8 {
		c.add(asm.StoreMem(asm.RFP, at+i, asm.R1, asm.DWord))
	}
}

// copy copies n octets of the frame, in whole double words.
func (c *code) copy(from, to, n int16) {
	for i := int16(0); i < n; i += 8 {
		c.add(asm.LoadMem(asm.R1, asm.RFP, from+i, asm.DWord), asm.StoreMem(asm.RFP, to+i, asm.R1, asm.DWord))
	}
}

// answer ends the program.
func (c *code) answer(label string, a int32) {
	c.label = label
	c.add(asm.Mov.Imm(asm.R0, a), asm.Return())
}

// mix hashes the words of the frame and a port of it into R1, as packet.Mix does. The
// port is in a word of its own then.
func (c *code) mix(port, word int16, words ...int16) {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, port, asm.Half),
		asm.StoreMem(asm.RFP, word, asm.R1, asm.DWord),
	)
	c.mixWords(append(words, word)...)
}

// mixWords hashes double words of the frame into R1.
func (c *code) mixWords(words ...int16) {
	c.add(
		asm.LoadImm(asm.R1, int64(c.seed), asm.DWord),
		asm.LoadImm(asm.R3, packet.MixFactor-1<<64, asm.DWord),
	)
	for _, word := range words {
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
