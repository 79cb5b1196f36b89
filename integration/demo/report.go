package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report writes what a reader sees. Write errors are no concern of it: if the
// reader has gone, a signal ends the demo.
type report struct {
	out    *os.File
	colour bool
}

// Attributes of text on a terminal.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
)

func newReport(out *os.File) *report {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &report{out: out, colour: err == nil && os.Getenv("NO_COLOR") == ""}
}

// paint gives text an attribute, where that is wanted.
func (r *report) paint(attribute, text string) string {
	if !r.colour {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

// line writes a line under a label; an empty label continues the one before.
func (r *report) line(label, text string) {
	fmt.Fprintf(r.out, "    %s%s\n", r.paint(dim, pad(label)), text)
}

// lines writes several under one label.
func (r *report) lines(label string, text []string) {
	for _, t := range text {
		r.line(label, t)
		label = ""
	}
}

func (r *report) opening() {
	fmt.Fprintln(r.out, r.paint(bold, "nfqfw: one client must not hold every worker of a server"))
}

// heading starts a group of steps.
func (r *report) heading(text string) {
	fmt.Fprintf(r.out, "\n%s\n%s\n", r.paint(bold, text), strings.Repeat("-", len(text)))
}

// begin says what a step is going to do.
func (r *report) begin(number int, s step) {
	fmt.Fprintf(r.out, "\n%2d  %s\n", number, r.paint(bold, s.title))
	r.lines("does", s.does)
	r.lines("expect", s.expect)
}

// saw says what was seen.
func (r *report) saw(format string, args ...any) {
	r.line("seen", fmt.Sprintf(format, args...))
}

// quote shows text as it stands.
func (r *report) quote(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(r.out, strings.TrimRight("    "+pad("")+"  "+line, " \n"))
	}
}

// end tells how a step ended.
func (r *report) end(err error, took time.Duration) {
	if err == nil {
		fmt.Fprintf(r.out, "    %s%s\n", r.paint(green, pad("ok")), seconds(took))
		return
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(r.out, "    %s%s\n", r.paint(red, pad("FAILED")), strings.TrimRight(line, "\n"))
	}
}

// ending says that all went well.
func (r *report) ending(steps int, took time.Duration) {
	fmt.Fprintf(r.out, "\n%s: all %d steps, in %s\n", r.paint(green, "ok"), steps, seconds(took))
}

// pad gives a label its width, before it is painted.
func pad(label string) string { return fmt.Sprintf("%-8s", label) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// milliseconds writes a short time.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
