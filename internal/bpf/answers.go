package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// Offsets from the frame pointer of the program that answers, in octets, beside those that
// all programs have.
const (
	deviceAt = -152 // the interface
	countAt  = -160 // the length of the client's TCP header
	headerOf = -168 // where the header of the services is in memory
	tcpOffAt = -176 // where the TCP header is in the packet

	// The client's options: 0 or not, and what they say; and then those it is told: 1 or 0.
	mssAt        = -184
	hasSACKAt    = -192
	hasWScaleAt  = -200
	wscaleAt     = -208
	hasStampAt   = -216
	stampAt      = -224
	cookieAt     = -232
	oldTCPAt     = -296 // the client's header
	newTCPAt     = -360 // and ours
	portsAt      = -368 // the last words of what the cookie is a hash of
	numberAt     = -376
	listedAt     = -396 // the key of a source that rules or tables name: 128, and the address
	etherAt      = -408
	newEtherAt   = -424
	ipAt         = -464
	secretAt     = -480     // the key of the cookie
	routeAt      = newTCPAt // before that is written
	maxTCP       = 60
	etherLen     = 14
	maxOldTCP    = 64 // room for maxTCP, in whole double words
	addressesLen = 12 // of an Ethernet header
)

// Fields of the kernel's struct __sk_buff, and values of them.
const (
	skbPktType = 4
	skbProto   = 16
	skbVLAN    = 20

	packetHost = 0
	etherIPv4  = 0x0008 // as the field has it: in network order
	etherIPv6  = 0xdd86
)

// What the program answers the kernel (bpf.h, enum tcx_action_base).
const (
	tcxNext = -1
	tcxDrop = 2
)

// Flags of helpers (bpf.h).
const (
	recomputeChecksum = 1    // BPF_F_RECOMPUTE_CSUM
	pseudoHeader      = 0x10 // BPF_F_PSEUDO_HDR
)

// answering are the maps of the program that answers, by their descriptors, and the seed.
type answering struct {
	services, cells, listed int
	seed                    uint64
}

// answers is the program that answers a SYN with a cookie, as the engine would: it makes the
// answer of the packet, and sends it back by the interface that it came in by. It is asked
// where packets come in (tcx, in a link with Ethernet headers). What it does not understand,
// and what it may not answer, it leaves to the rest of the kernel.
func answers(a answering) asm.Instructions {
	c := &code{shared: shared{seed: a.seed}, link: etherLen}
	c.expected()
	c.parse()
	c.opens()
	c.service(a.services)
	c.stranger(a.cells, a.listed)
	c.route()
	c.optionsOfSYN()
	c.tell()
	c.bake()
	c.options = 0
	c.segment()
	c.send()
	c.answer("drop", tcxDrop)
	c.answer("no", tcxNext)
	return c.Instructions
}

// expected goes on for a packet of IP that is for this machine to take.
func (c *code) expected() {
	c.add(
		asm.LoadMem(asm.R2, asm.R1, skbPktType, asm.Word), asm.JNE.Imm(asm.R2, packetHost, "no"),
		asm.LoadMem(asm.R2, asm.R1, skbVLAN, asm.Word), asm.JNE.Imm(asm.R2, 0, "no"), // of an interface of its own
		asm.LoadMem(asm.R2, asm.R1, skbProto, asm.Word),
		asm.JEq.Imm(asm.R2, etherIPv4, "ip"), asm.JNE.Imm(asm.R2, etherIPv6, "no"),
	)
	c.label = "ip"
}

// opens goes on for a SYN that is whole and has no payload. R9 is where its options begin
// then, and R8 where they end.
func (c *code) opens() {
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, flagsAt, asm.Byte),
		asm.And.Imm(asm.R1, int32(packet.FIN|packet.SYN|packet.RST|packet.PSH|packet.ACK|packet.URG)),
		asm.JNE.Imm(asm.R1, int32(packet.SYN), "no"),
		asm.LoadMem(asm.R1, asm.RFP, headerAt, asm.Byte), asm.JNE.Imm(asm.R1, plainIPv4, "one"),
		asm.LoadMem(asm.R1, asm.RFP, headerAt+6, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x3fff), asm.JNE.Imm(asm.R1, 0, "no"), // a fragment
	)
	c.label = "one"
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, offsetAt, asm.Byte), asm.RSh.Imm(asm.R1, 4), asm.LSh.Imm(asm.R1, 2),
		asm.JLT.Imm(asm.R1, tcpLen, "no"), asm.JGT.Imm(asm.R1, maxTCP, "no"),
		asm.StoreMem(asm.RFP, countAt, asm.R1, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R9), asm.JNE.Reg(asm.R1, asm.R8, "no"),
		asm.Add.Imm(asm.R8, etherLen),
		asm.Add.Imm(asm.R9, etherLen), asm.StoreMem(asm.RFP, tcpOffAt, asm.R9, asm.DWord),
		asm.Add.Imm(asm.R9, tcpLen),
	)
}

// service puts the service of the packet into R7, if it is answered for now.
func (c *code) service(services int) {
	field := func(offset uintptr) int16 { return int16(offset) }
	var s syncookie.Service
	c.add(
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word), asm.StoreMem(asm.RFP, deviceAt, asm.R1, asm.DWord),
	)
	c.mix(tcpAt+2, portAt, keyAt+16, keyAt+24, deviceAt)
	c.add(asm.And.Imm(asm.R1, syncookie.Services-1))
	c.element(services, "no")
	c.add(asm.Mov.Reg(asm.R7, asm.R0))
	for i := int16(0); i < 16; i += 8 {
		c.unlike(asm.LoadMem(asm.R1, asm.R7, i, asm.DWord), keyAt+16+i)
	}
	c.unlike(asm.LoadMem(asm.R1, asm.R7, field(unsafe.Offsetof(s.InDev)), asm.Word), deviceAt)
	c.unlike(asm.LoadMem(asm.R1, asm.R7, field(unsafe.Offsetof(s.Port)), asm.Half), portAt)
	c.add(
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R7, field(unsafe.Offsetof(s.Until)), asm.DWord),
		asm.JGE.Reg(asm.R0, asm.R1, "no"),
		asm.Mov.Imm(asm.R1, syncookie.Services),
	)
	c.element(services, "no")
	c.add(asm.StoreMem(asm.RFP, headerOf, asm.R0, asm.DWord))
}

// unlike says no unless what is loaded into R1 is a double word of the frame.
func (c *code) unlike(load asm.Instruction, at int16) {
	c.add(load, asm.LoadMem(asm.R2, asm.RFP, at, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "no"))
}

// stranger goes on for a client that has no state of this tuple, and few that limits are
// about, and that no rule or table names.
func (c *code) stranger(cells, listed int) {
	c.add(
		asm.LoadMem(asm.R2, asm.RFP, keyAt, asm.DWord), asm.JNE.Imm(asm.R2, 0, "cell"),
		asm.LoadMem(asm.R2, asm.RFP, keyAt+8, asm.DWord),
	)
	c.label = "cell"
	c.add(
		asm.LoadImm(asm.R1, int64(c.seed), asm.DWord), asm.Xor.Reg(asm.R1, asm.R2),
		asm.LoadImm(asm.R2, packet.MixFactor-1<<64, asm.DWord), asm.Mul.Reg(asm.R1, asm.R2),
		asm.RSh.Imm(asm.R1, 64-syncookie.CellBits),
	)
	c.element(cells, "no")
	c.add(
		asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(syncookie.Cell{}.Source)), asm.Word),
		asm.LoadMem(asm.R2, asm.R7, int16(unsafe.Offsetof(syncookie.Service{}.Few)), asm.Word), asm.JGT.Reg(asm.R1, asm.R2, "no"),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Word), asm.StoreMem(asm.RFP, portsAt, asm.R1, asm.DWord),
	)
	c.mixWords(keyAt, keyAt+8, keyAt+16, keyAt+24, portsAt)
	c.add(asm.And.Imm(asm.R1, syncookie.Cells-1))
	c.element(cells, "no")
	c.add(asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(syncookie.Cell{}.Tuple)), asm.Word), asm.JNE.Imm(asm.R1, 0, "no"))
	c.add(
		asm.Mov.Imm(asm.R1, 128), asm.StoreMem(asm.RFP, listedAt, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, keyAt, asm.DWord), asm.StoreMem(asm.RFP, listedAt+4, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, keyAt+8, asm.DWord), asm.StoreMem(asm.RFP, listedAt+12, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, listed),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, listedAt),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "no"),
	)
}

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
	c.add(asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < fibLen; i += 8 {
		c.add(asm.StoreMem(asm.RFP, routeAt+i, asm.R1, asm.DWord))
	}
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
	for i := int16(0); i < 16; i += 8 {
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, keyAt+16+i, asm.DWord), asm.StoreMem(asm.RFP, routeAt+fibSrc+i, asm.R1, asm.DWord),
			asm.LoadMem(asm.R1, asm.RFP, keyAt+i, asm.DWord), asm.StoreMem(asm.RFP, routeAt+fibDst+i, asm.R1, asm.DWord),
		)
	}
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
		c.optionOfSYN()
	}
	c.add(asm.JNE.Reg(asm.R9, asm.R8, "no")) // more options than that
	c.label = "read"
}

// optionOfSYN goes past the option at R9, or to read after the last.
func (c *code) optionOfSYN() {
	c.options++
	label := func(name string) string { return fmt.Sprint(name, c.options) }
	next := label("next")
	c.add(asm.JEq.Reg(asm.R9, asm.R8, "read"))
	c.load(asm.Mov.Reg(asm.R2, asm.R9), octetAt, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Byte),
		asm.JEq.Imm(asm.R1, optEnd, "read"),
		asm.Add.Imm(asm.R9, 1),
		asm.JEq.Imm(asm.R1, optNOP, next),
	)
	for _, kind := range []int32{optFastOpen, optExperiment1, optExperiment2} {
		c.add(asm.JEq.Imm(asm.R1, kind, "no"))
	}
	c.add(asm.JEq.Reg(asm.R9, asm.R8, "no"))
	c.load(asm.Mov.Reg(asm.R2, asm.R9), octetAt+1, 1)
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, octetAt+1, asm.Byte), asm.JLT.Imm(asm.R1, 2, "no"),
		asm.Add.Reg(asm.R9, asm.R1), asm.Sub.Imm(asm.R9, 1), asm.JGT.Reg(asm.R9, asm.R8, "no"),
		asm.LoadMem(asm.R1, asm.RFP, octetAt, asm.Half), // kind, and length
		asm.JEq.Imm(asm.R1, 2|4<<8, label("mss")), asm.JEq.Imm(asm.R1, 3|3<<8, label("wscale")),
		asm.JEq.Imm(asm.R1, 4|2<<8, label("sack")), asm.JEq.Imm(asm.R1, 8|10<<8, label("stamp")),
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
	c.add(
		asm.StoreMem(asm.RFP, wscaleAt, asm.R1, asm.DWord),
	)
	c.has(hasWScaleAt)
	c.add(asm.Ja.Label(next))
	c.label = label("sack")
	c.has(hasSACKAt)
	c.add(asm.Ja.Label(next))
	c.label = label("stamp")
	c.behind(8, stampAt, 4)
	c.has(hasStampAt)
	c.label = next
	c.add(asm.Mov.Reg(asm.R9, asm.R9)) // the label's
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
		asm.Or.Reg(asm.R3, asm.R1), asm.Mov.Reg(asm.R9, asm.R3), // now the low octet
		asm.LoadMem(asm.R2, asm.R8, 0, asm.DWord), asm.LoadMem(asm.R3, asm.R8, 8, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "key"),
		asm.LoadMem(asm.R2, asm.R8, 16, asm.DWord), asm.LoadMem(asm.R3, asm.R8, 24, asm.DWord),
	)
	c.label = "key"
	c.add(
		asm.StoreMem(asm.RFP, secretAt, asm.R2, asm.DWord), asm.StoreMem(asm.RFP, secretAt+8, asm.R3, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, portsAt, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.LSh.Imm(asm.R1, 8), asm.Or.Reg(asm.R1, asm.R9), asm.StoreMem(asm.RFP, numberAt, asm.R1, asm.DWord),
	)
	c.siphash(keyAt, keyAt+8, keyAt+16, keyAt+24, portsAt, numberAt)
	c.add(
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 32), asm.Xor.Reg(asm.R1, asm.R2),
		asm.Mov.Reg32(asm.R1, asm.R1), asm.RSh.Imm(asm.R1, 8), asm.LSh.Imm(asm.R1, 8), // the upper 24 bits
		asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 24), asm.Xor.Reg(asm.R2, asm.R9), asm.And.Imm(asm.R2, 0xff),
		asm.Or.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.RFP, cookieAt, asm.R1, asm.DWord),
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

// segment writes the header of the answer, as wire.Append does, and has its length in R8.
// In the place of its checksum is that of the client's.
func (c *code) segment() {
	var s syncookie.Service
	option := func(n int) int16 { return newTCPAt + tcpLen + int16(4*n) }
	c.add(asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < maxOldTCP; i += 8 {
		c.add(asm.StoreMem(asm.RFP, newTCPAt+i, asm.R1, asm.DWord))
	}
	c.add(
		asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Half), asm.StoreMem(asm.RFP, newTCPAt+2, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt+2, asm.Half), asm.StoreMem(asm.RFP, newTCPAt, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, cookieAt, asm.DWord), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, newTCPAt+4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, seqAt, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.Add.Imm(asm.R1, 1),
		asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, newTCPAt+8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, tcpAt+16, asm.Half), asm.StoreMem(asm.RFP, newTCPAt+16, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, 2|4<<8), asm.StoreMem(asm.RFP, option(0), asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.MSS)), asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, option(0)+2, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, hasStampAt, asm.DWord), asm.JEq.Imm(asm.R1, 0, "noStamp"),

		asm.Mov.Imm(asm.R1, 1|1<<8|8<<16|10<<24), // NOP, NOP, timestamp
		asm.LoadMem(asm.R2, asm.RFP, hasSACKAt, asm.DWord), asm.JEq.Imm(asm.R2, 0, "noSACK"),
		asm.Mov.Imm(asm.R1, 4|2<<8|8<<16|10<<24), // SACK-permitted, timestamp
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
		asm.Mov.Imm(asm.R1, 1|1<<8|4<<16|2<<24), asm.StoreMem(asm.RFP, option(1), asm.R1, asm.Word),
	)
	c.scale(option(2))
	c.label = "neither"
	c.scale(option(1))
	c.label = "written"
	c.add(
		asm.Mov.Reg(asm.R1, asm.R8), asm.LSh.Imm(asm.R1, 2), // words, in the upper four bits
		asm.StoreMem(asm.RFP, newTCPAt+12, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, int32(packet.SYN|packet.ACK)), asm.StoreMem(asm.RFP, newTCPAt+13, asm.R1, asm.Byte),
	)
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
		asm.Mov.Imm(asm.R1, 1|3<<8|3<<16), asm.StoreMem(asm.RFP, at, asm.R1, asm.Word),
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
	c.add(asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < maxOldTCP; i += 8 {
		c.add(asm.StoreMem(asm.RFP, oldTCPAt+i, asm.R1, asm.DWord))
	}
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
	for i := int16(0); i < 16; i += 8 {
		c.add(
			asm.LoadMem(asm.R1, asm.RFP, keyAt+16+i, asm.DWord), asm.StoreMem(asm.RFP, ipAt+8+i, asm.R1, asm.DWord),
			asm.LoadMem(asm.R1, asm.RFP, keyAt+i, asm.DWord), asm.StoreMem(asm.RFP, ipAt+24+i, asm.R1, asm.DWord),
		)
	}
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
