package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// optionsOfSYN reads the client's options, from R9 to R8, as the decoder in Go does.
func (c *code) optionsOfSYN() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, headerOf, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, int16(unsafe.Offsetof(syncookie.Header{}.Zero)), asm.DWord),
	)
	for _, at := range []int16{mssAt, hasSACKAt, hasWScaleAt, wscaleAt, hasStampAt, stampAt} {
		c.add(asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord))
	}
	for range maxOptions {
		c.option("read", c.readOption)
	}
	c.add(asm.JNE.Reg(asm.R9, asm.R8, "no")) // more options than that
	c.label = "read"
}

// readOption takes over an option that the cookie, or the answer, is about.
func (c *code) readOption(next string) {
	label := func(name string) string { return fmt.Sprint(name, c.options) }
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Half), // kind, and length
		asm.JEq.Imm(asm.R1, optMSS|lenMSS<<8, label("mss")), asm.JEq.Imm(asm.R1, optWScale|lenWScale<<8, label("wscale")),
		asm.JEq.Imm(asm.R1, optSACK|lenSACK<<8, label("sack")), asm.JEq.Imm(asm.R1, optStamp|lenStamp<<8, label("stamp")),
		asm.Ja.Label(next),
	)
	c.label = label("mss")
	c.behind(2, octetAt+2, 2)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt+2, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JEq.Imm(asm.R1, 0, next),
		asm.StoreMem(asm.RFP, mssAt, asm.R1, asm.DWord), asm.Ja.Label(next),
	)
	c.label = label("wscale")
	c.behind(1, octetAt+2, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt+2, asm.Byte),
		asm.JLE.Imm(asm.R1, packet.MaxWScale, label("scales")), asm.Mov.Imm(asm.R1, packet.MaxWScale),
	)
	c.label = label("scales")
	c.add(asm.StoreMem(asm.RFP, wscaleAt, asm.R1, asm.DWord))
	c.has(hasWScaleAt)
	c.add(asm.Ja.Label(next))
	c.label = label("sack")
	c.has(hasSACKAt)
	c.add(asm.Ja.Label(next))
	c.label = label("stamp")
	c.behind(8, stampAt, 4)
	c.has(hasStampAt)
}

// has notes that there is an option: by its kind, which is not 0, and not known to the
// verifier, as the 0 before is not. Else it would look at the rest of the program once for
// each set of options, and without CAP_PERFMON very much longer.
func (c *code) has(at int16) {
	c.add(asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Byte), asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord))
}

// behind reads n octets that begin so many before R9.
func (c *code) behind(before int32, to, n int32) {
	c.add(asm.Mov.Reg(asm.R5, asm.R9), asm.Sub.Imm(asm.R5, before))
	c.load(asm.Mov.Reg(asm.R2, asm.R5), to, n)
}
