package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/syncookie"
)

// Layout of the kernel's struct bpf_fib_lookup, and values of it and of what the helper
// answers (bpf.h).
const (
	fibProtocol = 1
	fibSrcPort  = 2
	fibDstPort  = 4
	fibIfindex  = 8
	fibSrc      = 16
	fibDst      = 32
	fibLen      = 64

	familyIPv4, familyIPv6 = 2, 10

	fibSkipNeighbour      = 4 // BPF_FIB_LOOKUP_SKIP_NEIGH
	fibForwardingDisabled = 5
)

// route goes on if the answer would leave by the interface that the SYN came in by. Where
// the machine does not forward the kernel does not say, and it has to have no other.
func (c *code) route() {
	c.zero(routeAt, fibLen)
	c.add(
		asm.Mov.Imm(asm.R1, protoTCP), asm.StoreMem(asm.RFP, routeAt+fibProtocol, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt+2, asm.Half), asm.StoreMem(asm.RFP, routeAt+fibSrcPort, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Half), asm.StoreMem(asm.RFP, routeAt+fibDstPort, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, deviceAt, asm.DWord), asm.StoreMem(asm.RFP, routeAt+fibIfindex, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, headerAt, asm.Byte), asm.JNE.Imm(asm.R1, plainIPv4, "route6"),
		asm.Mov.Imm(asm.R1, familyIPv4), asm.StoreMem(asm.RFP, routeAt, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+28, asm.Word), asm.StoreMem(asm.RFP, routeAt+fibSrc, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+12, asm.Word), asm.StoreMem(asm.RFP, routeAt+fibDst, asm.R1, asm.Word),
		asm.Ja.Label("lookup"),
	)
	c.label = "route6"
	c.add(asm.Mov.Imm(asm.R1, familyIPv6), asm.StoreMem(asm.RFP, routeAt, asm.R1, asm.Byte))
	c.copy(keyAt+16, routeAt+fibSrc, 16)
	c.copy(keyAt, routeAt+fibDst, 16)
	c.label = "lookup"
	c.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, routeAt), asm.Mov.Imm(asm.R3, fibLen),
		asm.Mov.Imm(asm.R4, fibSkipNeighbour),
		asm.FnFibLookup.Call(),
		asm.LoadMem(asm.R1, asm.RFP, routeAt+fibIfindex, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "routed"), asm.JNE.Imm(asm.R0, fibForwardingDisabled, "no"),
		asm.LoadMem(asm.R1, asm.RFP, headerOf, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, int16(unsafe.Offsetof(syncookie.Header{}.Sole)), asm.Word),
	)
	c.label = "routed"
	c.add(asm.LoadMem(asm.R2, asm.RFP, deviceAt, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "no"))
}
