package bpf

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
)

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

// The kinds of TCP options that the programs have to know, and their lengths, in octets.
const (
	optEnd, optNOP, optFastOpen = 0, 1, 34
	optMSS, lenMSS              = 2, 4
	optWScale, lenWScale        = 3, 3
	optSACK, lenSACK            = 4, 2
	optStamp, lenStamp          = 8, 10
	optExperiment1              = 253
	optExperiment2              = 254
)

// maxOptions is how many options of a SYN are looked at. Systems send about five, and a
// word of padding.
const maxOptions = 12

// parse reads the headers: the addresses to where the key is, the length of the packet to
// R8 and that of its IP header to R9. Conntrack has put fragments together.
func (c *code) parse() {
	c.add(asm.Mov.Reg(asm.R6, asm.R1))
	c.load(at(c.link), headerAt, ipv6Len)
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

func (c *code) ipv6() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, headerAt+6, asm.Byte),
		asm.JNE.Imm(asm.R1, protoTCP, "no"),
	)
	c.copy(headerAt+8, keyAt, 32)
	c.add(
		asm.LoadMem(asm.R8, asm.RFP, headerAt+4, asm.Half), asm.HostTo(asm.BE, asm.R8, asm.Half),
		asm.Add.Imm(asm.R8, ipv6Len),
		asm.Mov.Imm(asm.R9, ipv6Len),
	)
	c.load(at(c.link+ipv6Len), tcpAt, tcpLen)
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
	c.load(at(c.link+ipv4Len), tcpAt, tcpLen)
}

// control puts the control bits of the TCP header into R1.
func (c *code) control() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.PSH|packet.ACK|packet.URG)),
	)
}

// bare goes on for a packet that ends with its TCP header.
func (c *code) bare() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, offsetAt, asm.Byte), asm.RSh.Imm(asm.R1, 4), asm.LSh.Imm(asm.R1, 2),
		asm.Add.Reg(asm.R1, asm.R9),
		asm.JNE.Reg(asm.R1, asm.R8, "no"),
	)
}

// plain goes on at done for a packet that means nothing to an application: it has no
// payload, no option of TCP Fast Open, and none that is not whole.
func (c *code) plain(done string) {
	c.bare()
	c.add(asm.Add.Imm(asm.R9, tcpLen)) // now where the next option is
	for range maxOptions {
		c.option(done, nil)
	}
	c.add(
		asm.JEq.Reg(asm.R9, asm.R8, done),
		asm.Ja.Label("no"), // more options than that, or one that is not whole
	)
}

// option goes past the option at R9, or to done after the last. One that has a length is read
// first, if read is not nil: its kind and its length are in the frame, R9 is behind it, and
// next is where to go on.
func (c *code) option(done string, read func(next string)) {
	c.options++
	next := fmt.Sprint("option", c.options)
	c.add(asm.JEq.Reg(asm.R9, asm.R8, done))
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
	c.add(asm.JEq.Reg(asm.R9, asm.R8, "no"))
	c.load(asm.Mov.Reg(asm.R2, asm.R9), octetAt+1, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt+1, asm.Byte),
		asm.JLT.Imm(asm.R1, 2, "no"),
		asm.Add.Reg(asm.R9, asm.R1), asm.Sub.Imm(asm.R9, 1),
		asm.JGT.Reg(asm.R9, asm.R8, "no"),
	)
	if read != nil {
		read(next)
	}
	c.label = next
	c.add(asm.Mov.Reg(asm.R9, asm.R9)) // the label's
}
