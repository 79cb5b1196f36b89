package rules

import (
	"maps"
	"slices"
)

// ServicePort is the port of a TCP service.
func ServicePort(name string) (port uint16, ok bool) {
	port, ok = services[name]
	return port, ok
}

// ServiceName is the name of the TCP service at a port, if one is known.
func ServiceName(port uint16) (name string, ok bool) {
	name, ok = serviceNames[port]
	return name, ok
}

// ServiceNames are all names, in alphabetical order.
func ServiceNames() []string { return slices.Sorted(maps.Keys(services)) }

// serviceNames has the first in the alphabet of the names of a port.
var serviceNames = func() map[uint16]string {
	names := make(map[uint16]string, len(services))
	for _, name := range slices.Backward(ServiceNames()) {
		names[services[name]] = name
	}
	return names
}()

// services are those that rules know by name: IANA's names, and the ports that every
// /etc/services agrees on. That file is not read, so that a configuration means the
// same on each machine.
var services = map[string]uint16{
	"echo": 7, "discard": 9, "daytime": 13, "chargen": 19, "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23,
	"smtp": 25, "time": 37, "whois": 43, "tacacs": 49, "domain": 53, "gopher": 70, "finger": 79, "http": 80,
	"www": 80, "kerberos": 88, "pop3": 110, "sunrpc": 111, "auth": 113, "nntp": 119, "ntp": 123, "epmap": 135,
	"netbios-ssn": 139, "imap2": 143, "imap": 143, "snmp": 161, "bgp": 179, "irc": 194, "ldap": 389, "https": 443,
	"microsoft-ds": 445, "kpasswd": 464, "submissions": 465, "login": 513, "shell": 514, "printer": 515,
	"nntps": 563, "submission": 587, "ldaps": 636, "domain-s": 853, "rsync": 873, "ftps-data": 989, "ftps": 990,
	"telnets": 992, "imaps": 993, "pop3s": 995, "socks": 1080, "openvpn": 1194, "ms-sql-s": 1433, "pptp": 1723,
	"mqtt": 1883, "nfs": 2049, "git": 9418, "svn": 3690, "mysql": 3306, "ms-wbt-server": 3389, "sip": 5060,
	"sips": 5061, "xmpp-client": 5222, "xmpp-server": 5269, "postgresql": 5432, "amqp": 5672, "amqps": 5671,
	"redis": 6379, "ircs-u": 6697, "http-alt": 8080, "secure-mqtt": 8883,
}
