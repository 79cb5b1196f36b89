package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"nfqfw/rules"
)

// portRange reads an element of "port": a number, a range or a service.
func portRange(v any) (rules.PortRange, error) {
	switch v := v.(type) {
	case int64:
		if v < 1 || v > math.MaxUint16 {
			return rules.PortRange{}, fmt.Errorf("%d is not a port (1-65535)", v)
		}
		return rules.PortRange{First: uint16(v), Last: uint16(v)}, nil
	case string:
		return parsePorts(v)
	}
	return rules.PortRange{}, wrongType(v, "a port")
}

func parsePorts(s string) (rules.PortRange, error) {
	if p, ok := services[s]; ok {
		return rules.PortRange{First: p, Last: p}, nil
	}
	if s == "" || strings.Trim(s, "0123456789-") != "" {
		return rules.PortRange{}, fmt.Errorf("%s is not a port (1-65535), a range (8000-8010) or a known service%s",
			shown(s), didYouMean(s, slices.Sorted(maps.Keys(services))))
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err := parsePort(first)
	if err != nil {
		return rules.PortRange{}, err
	}
	b, err := parsePort(last)
	if err != nil {
		return rules.PortRange{}, err
	}
	if a > b {
		return rules.PortRange{}, fmt.Errorf("%s is a range from its end to its start", shown(s))
	}
	return rules.PortRange{First: a, Last: b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a port (1-65535)", shown(s))
	}
	return uint16(n), nil
}

// services are the TCP services that "port" knows by name: IANA's names, and
// the ports that every /etc/services agrees on. That file is not read, so that
// a configuration means the same on each machine.
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
