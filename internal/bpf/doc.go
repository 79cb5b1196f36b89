// Package bpf has the kernel carry out by itself what wants no verdict: programs that
// rules of iptables ask (xt_bpf, "-m bpf --object-pinned"), the memory of the grants that
// they read, and the ring in which they record packets.
//
//	opens    is this SYN, or SYN+ACK, granted (internal/grant)?
//	admits   is the admission of this ACK's connection granted? Then take it, and record the ACK
//	records  put the beginning of this packet into the ring; no if there is no room, or
//	         its headers are not plain ones: somebody else has to tell of it
//	unproven is this an ACK that repeats no cookie, while such are to be dropped
//	         (internal/syncookie)? Then count it
//
// And one more, where packets come in to an interface (tcx), that is not asked but answers:
//
//	answers  is this a SYN that may be answered with a cookie (internal/syncookie)? Then
//	         make it the SYN+ACK, and send it back
//
// A record is there before the packet goes on, and nobody is woken by it: what has passed
// before a packet came to a queue, a Read between that packet's arrival and its judgement
// finds. That is what a log group does too (nfq.Log), at a tenth of the price.
//
// Open and OpenCookies load the programs, which takes CAP_BPF, and CAP_SYS_ADMIN where nobody has mounted
// the file system of bpf. Nothing later takes a privilege. Pin puts them where iptables
// finds them, one place for each network namespace: rules that refer to older programs keep
// those until they go.
//
// It refuses to work on machines that are big-endian.
package bpf
