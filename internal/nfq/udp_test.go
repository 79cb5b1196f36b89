package nfq

import (
	"net"
	"testing"
)

// udpPair is two sockets on loopback, the one to send to the other, made by
// the calling thread.
func udpPair(t testing.TB) (client *net.UDPConn, server *net.UDPConn) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	_ = server.SetReadBuffer(8 << 20)
	client, err = net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, server
}
