package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/syncookie"
	"nfqfw/synproxy/cookie"
)

// tell leaves of the options those that the service has too.
func (c *code) tell() {
	var s syncookie.Service
	for bit, at := range []int16{hasSACKAt, hasWScaleAt, hasStampAt} { // as syncookie.Has has them
		told := fmt.Sprint("told", bit)
		c.add(
			asm.LoadMem(asm.R2, asm.RFP, at, asm.DWord), asm.JEq.Imm(asm.R2, 0, told),
			asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.Has)), asm.Byte),
			asm.RSh.Imm(asm.R1, int32(bit)), asm.And.Imm(asm.R1, 1),
			asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord),
		)
		c.label = told
	}
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, mssAt, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, int16(unsafe.Offsetof(s.Room)), asm.Half),
		asm.JLE.Reg(asm.R1, asm.R2, "fits"), asm.Mov.Reg(asm.R1, asm.R2),
	)
	c.label = "fits"
	c.add(asm.Mov.Imm(asm.R3, 0))
	for i, mss := range cookie.MSSes()[1:] {
		c.add(asm.JLT.Imm(asm.R1, int32(mss), "rounded"), asm.Mov.Imm(asm.R3, int32(i+1)<<cookie.MSSBit))
	}
	c.label = "rounded"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, hasWScaleAt, asm.DWord), asm.JEq.Imm(asm.R1, 0, "scaled"),
		asm.LoadMem(asm.R1, asm.RFP, wscaleAt, asm.DWord), asm.Mov.Imm(asm.R2, 1<<cookie.ScaleBit),
	)
	for i, shift := range cookie.Scales()[1:] {
		c.add(asm.JLT.Imm(asm.R1, int32(shift), "shifted"), asm.Mov.Imm(asm.R2, int32(i+2)<<cookie.ScaleBit))
	}
	c.label = "shifted"
	c.add(asm.Or.Reg(asm.R3, asm.R2))
	c.label = "scaled"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, hasSACKAt, asm.DWord), asm.LSh.Imm(asm.R1, cookie.SACKBit), asm.Or.Reg(asm.R3, asm.R1),
	)
}

// bake puts the cookie for the options in R3 into the frame, as cookie.Jar does.
func (c *code) bake() {
	c.add(
		asm.LoadMem(asm.R8, asm.RFP, headerOf, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, int16(unsafe.Offsetof(syncookie.Header{}.Newer)), asm.Word), asm.And.Imm(asm.R1, 1),
		asm.Or.Reg(asm.R3, asm.R1), asm.Mov.Reg(asm.R9, asm.R3),
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, clientAt, asm.R1, asm.DWord),
	)
	c.makeCookie()
	c.add(asm.StoreMem(asm.RFP, cookieAt, asm.R1, asm.DWord))
}

// makeCookie puts the cookie for the client's number in the frame and the low octet in R9,
// which names the key, into R1.
func (c *code) makeCookie() {
	c.cookies++
	key := fmt.Sprint("key", c.cookies)
	c.add(
		asm.LoadMem(asm.R8, asm.RFP, headerOf, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R9), asm.And.Imm(asm.R1, 1),
		asm.LoadMem(asm.R2, asm.R8, 0, asm.DWord), asm.LoadMem(asm.R3, asm.R8, 8, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, key),
		asm.LoadMem(asm.R2, asm.R8, 16, asm.DWord), asm.LoadMem(asm.R3, asm.R8, 24, asm.DWord),
	)
	c.label = key
	c.add(
		asm.StoreMem(asm.RFP, secretAt, asm.R2, asm.DWord), asm.StoreMem(asm.RFP, secretAt+8, asm.R3, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, portsAt, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, clientAt, asm.DWord),
		asm.LSh.Imm(asm.R1, 8), asm.Or.Reg(asm.R1, asm.R9), asm.StoreMem(asm.RFP, numberAt, asm.R1, asm.DWord),
	)
	c.siphash(keyAt, keyAt+8, keyAt+16, keyAt+24, portsAt, numberAt)
	c.add(
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 32), asm.Xor.Reg(asm.R1, asm.R2),
		asm.Mov.Reg32(asm.R1, asm.R1), asm.RSh.Imm(asm.R1, 8), asm.LSh.Imm(asm.R1, 8), // the upper 24 bits
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 24), asm.Xor.Reg(asm.R2, asm.R9), asm.And.Imm(asm.R2, 0xff),
		asm.Or.Reg(asm.R1, asm.R2),
	)
}

// siphash puts SipHash-2-4 of words of the frame into R1, by the key that is there.
func (c *code) siphash(words ...int16) {
	for i, init := range []uint64{cookie.Sip0, cookie.Sip1, cookie.Sip2, cookie.Sip3} {
		v := asm.R1 + asm.Register(i)
		c.add(
			asm.LoadMem(v, asm.RFP, secretAt+int16(i%2*8), asm.DWord),
			asm.LoadImm(asm.R5, int64(init), asm.DWord), asm.Xor.Reg(v, asm.R5),
		)
	}
	absorb := func(load asm.Instruction) { // into R5, again and again: a round needs it
		c.add(load, asm.Xor.Reg(asm.R4, asm.R5))
		c.sipRounds(2)
		c.add(load, asm.Xor.Reg(asm.R1, asm.R5))
	}
	for _, word := range words {
		absorb(asm.LoadMem(asm.R5, asm.RFP, word, asm.DWord))
	}
	absorb(asm.LoadImm(asm.R5, int64(len(words)*8)<<56, asm.DWord))
	c.add(asm.Xor.Imm(asm.R3, 0xff))
	c.sipRounds(4)
	c.add(asm.Xor.Reg(asm.R1, asm.R2), asm.Xor.Reg(asm.R1, asm.R3), asm.Xor.Reg(asm.R1, asm.R4))
}

func (c *code) sipRounds(n int) {
	v0, v1, v2, v3 := asm.R1, asm.R2, asm.R3, asm.R4
	rotate := func(v asm.Register, by int32) {
		c.add(asm.Mov.Reg(asm.R5, v), asm.LSh.Imm(v, by), asm.RSh.Imm(asm.R5, 64-by), asm.Or.Reg(v, asm.R5))
	}
	half := func(a, b asm.Register, by int32) {
		c.add(asm.Add.Reg(a, b))
		rotate(b, by)
		c.add(asm.Xor.Reg(b, a))
	}
	for range n {
		half(v0, v1, 13)
		rotate(v0, 32)
		half(v2, v3, 16)
		half(v0, v3, 21)
		half(v2, v1, 17)
		rotate(v2, 32)
	}
}
