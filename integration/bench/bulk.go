package main

import "context"

// runBulk transfers data both ways.
func runBulk(ctx context.Context, st *stage) (values, error) {
	if err := st.Server.StartIperf(ctx, web.Port()); err != nil {
		return nil, err
	}
	found := make(values)
	for way, args := range map[string][]string{"up": {}, "down": {"--reverse"}} {
		speed, err := st.Client.Iperf(ctx, st.to, append(args, "--bytes", st.transfer)...)
		if err != nil {
			return nil, err
		}
		found[way] = speed
	}
	return found, nil
}
