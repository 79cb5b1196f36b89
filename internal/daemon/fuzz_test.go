package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// Whatever the arguments of a command are, the daemon answers, or tells what is wrong
// with them. Those that change the kernel are not asked.
func FuzzCommands(f *testing.F) {
	f.Add("states", []byte(`{"counters":true,"filter":{"rules":["web"],"state":"ESTABLISHED:"}}`))
	f.Add("sources", []byte(`{"counters":"x"}`))
	f.Add("refusals", []byte(`{"since":1e308,"source":"192.0.2.0/24"}`))
	f.Add("table", []byte(`{"table":"bad","command":"add","addresses":["192.0.2.0/24"],"ttl":1e300}`))
	f.Add("table", []byte(`{"table":"bad","command":"test","addresses":["!::/0"],"ttl":-1}`))
	f.Add("info", []byte(`[[[[`))
	d := testDaemon(f, "[table.bad]\n[[rule]]\nname = \"web\"\nport = [80]\nfrom = [\"<bad>\"]\n")
	d.engine = d.newEngine(d.config.Load())
	handlers := d.handlers()
	for _, command := range []string{"takeover", "reload", "kill"} {
		delete(handlers, command)
	}
	f.Fuzz(func(t *testing.T, command string, args []byte) {
		h := handlers[command]
		if h == nil || !json.Valid(args) { // package control refuses both
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := h(ctx, args, func(item any) error {
			_, err := json.Marshal(item)
			return err
		})
		var unfit *json.UnsupportedValueError
		if errors.As(err, &unfit) || err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%s %s: %v", command, args, err)
		}
	})
}
