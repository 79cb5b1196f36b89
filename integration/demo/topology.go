package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// topology is the part of the lab that the demo uses.
const topology = `
 clients                        gateway                        server
+----------------------+       +----------------------+       +----------------------+
| 198.51.100.7 attacker|       | here nfqfw decides   |       | 192.0.2.10, port 80: |
| 198.51.100.8 honest  +-------+ eth0            eth1 +-------+ 100 workers          |
+----------------------+       +----------------------+       +----------------------+

`

// configurationText is a whole configuration file; the policy is to be filled
// in.
const configurationText = `[[rule]]
name         = "web"
on           = ["eth0"]
to           = ["192.0.2.10"]
port         = [80]
state        = %q
max_src_conn = 10
`

func configuration(policy string) string { return fmt.Sprintf(configurationText, policy) }

// showLab draws the lab and checks the configuration.
func showLab(ctx context.Context, st *stage) error {
	st.report.quote(topology)
	st.report.quote(configuration(st.policies[0]))
	for _, other := range st.policies[1:] {
		st.report.quote(fmt.Sprintf("\n(first so, then the same with state = %q)\n\n", other))
	}
	dir, err := st.TempDir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "check.toml")
	for _, policy := range st.policies {
		if err := os.WriteFile(path, []byte(configuration(policy)), 0o644); err != nil {
			return err
		}
		out, err := st.Gateway.Command(ctx, st.binary, "check", "-c", path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("check: %w: %s", err, out)
		}
		st.report.saw("with state = %q: no error", policy)
	}
	return nil
}
