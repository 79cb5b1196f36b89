package synproxy

// CookieMode says when the SYN proxy answers with cookies and remembers nothing
// ("set syncookies" in pf.conf(5)).
type CookieMode uint8

// The modes.
const (
	CookiesNever    CookieMode = iota
	CookiesAlways              // for every SYN
	CookiesAdaptive            // while many connections are half-open
)

// CookieModes are pf's words, in the order of the modes.
var CookieModes = []string{"never", "always", "adaptive"}

// String is pf's word.
func (m CookieMode) String() string {
	if int(m) < len(CookieModes) {
		return CookieModes[m]
	}
	return "unknown"
}
