package main

import (
	"fmt"
	"io"
	"log/slog"

	"nfqfw/internal/config"
)

// printWarnings says what a file says without effect.
func printWarnings(w io.Writer, path string, c *config.Config) {
	for _, warning := range c.Warnings {
		fmt.Fprintf(w, "nfqfw: %s: warning: %s\n", path, warning)
	}
}

// logWarnings is printWarnings for the daemon.
func logWarnings(log *slog.Logger, path string, c *config.Config) {
	for _, warning := range c.Warnings {
		log.Warn("configuration", "file", path, "warning", warning)
	}
}
