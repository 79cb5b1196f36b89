// Package daemon is the running firewall: it joins the engine to the kernel's
// queues, raw sockets, conntrack table and iptables, and answers the control
// socket.
//
// One goroutine per kernel queue takes each packet through decode, engine,
// offload order, segments and verdict; one more does what is due without a
// packet. What the kernel lets pass by itself is not queued, as what closes an admitted
// connection, or opens one that is granted (internal/grant): the kernel copies it, and
// the copies that were made before a packet came are taken note of before it is judged,
// as they are before a question is answered. The hooks go in when all of them run, and come
// out first of all when the daemon stops, so that no packet waits for a verdict nobody will
// give. What others take out of the kernel meanwhile is put back: the hooks, the sets they
// refer to, and settings; but not faster and faster, if somebody insists.
//
// It holds CAP_NET_ADMIN and CAP_NET_RAW and no other capability, nor does a program
// that it starts. A loop that packets depend on and that makes no progress ends the
// process, whose hooks stay: the kernel then does what when_down says.
package daemon
