// Package cookie makes and opens SYN cookies: initial sequence numbers that a
// client has to repeat, so that nothing need be remembered of it (RFC 4987
// section 3.6).
//
// A cookie is a function of a key, both addresses and ports, the client's
// initial number and one octet of options, and of nothing else: no clock, no
// counter, no state. The function is SipHash-2-4 over six 64 bit words, additions,
// rotations and exclusive ors only, without a loop of variable length, so that a
// program in the kernel (XDP) can make the same cookies from the same key.
package cookie
