package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Measures of the chart, in pixels.
const (
	panelWidth  = 560
	labelWidth  = 200
	valueWidth  = 70
	barHeight   = 14
	rowHeight   = 22
	titleHeight = 40
	panelGap    = 24
	margin      = 16
	columns     = 2
	barWidth    = panelWidth - labelWidth - valueWidth
)

// chartStyle follows what the reader's screen is set to. The ground is part of it: what
// does not know of such settings has the light one.
const chartStyle = `<style>
	text { font: 12px system-ui, sans-serif; fill: #1f2328 }
	.title { font-weight: 600; font-size: 13px }
	.note { font-size: 11px; fill: #59636e }
	.base { fill: #8c959f } .other { fill: #4493f8 } .ours { fill: #db6d28 }
	.whisker { stroke: #1f2328; stroke-width: 1.2 }
	.axis { stroke: #8c959f; stroke-width: 1 }
	.ground { fill: #ffffff }
	@media (prefers-color-scheme: dark) {
		text { fill: #f0f6fc }
		.note { fill: #9198a1 }
		.whisker { stroke: #f0f6fc }
		.ground { fill: #0d1117 }
	}
</style>
`

// A panel is the chart of a metric: a bar for each peer.
type panel struct {
	scenario scenario
	metric   metric
	peers    []peer
	spreads  []spread
	low      float64 // where bars begin; 0 unless the scale is logarithmic
	high     float64
}

// chart draws all panels, in columns. All text is in it, so that nothing else is needed
// to look at it.
func (r *results) chart() string {
	var body strings.Builder
	var bottom [columns]int
	for _, p := range r.panels() {
		shortest := 0
		for c := range bottom {
			if bottom[c] < bottom[shortest] {
				shortest = c
			}
		}
		fmt.Fprintf(&body, "<g transform=\"translate(%d %d)\">\n", margin+shortest*(panelWidth+panelGap), margin+bottom[shortest])
		p.draw(&body)
		body.WriteString("</g>\n")
		bottom[shortest] += p.height() + panelGap
	}
	width, height := 2*margin+columns*panelWidth+(columns-1)*panelGap, 2*margin+max(bottom[0], bottom[1])-panelGap
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n%s"+
		"<path class=\"ground\" d=\"M0 0H%dV%dH0Z\"/>\n%s</svg>\n",
		width, height, width, height, chartStyle, width, height, body.String())
}

// panels are those of the metrics that are drawn and were found, and differ.
func (r *results) panels() []panel {
	var list []panel
	for _, sc := range r.scenarios {
		for _, m := range sc.metrics {
			if !m.chart {
				continue
			}
			p := panel{scenario: sc, metric: m}
			for _, one := range r.shown(sc) {
				if s := r.spread(sc, one, m); s.n > 0 {
					p.peers, p.spreads = append(p.peers, one), append(p.spreads, s)
				}
			}
			if p.differs() {
				p.scale()
				list = append(list, p)
			}
		}
	}
	return list
}

// differs tells whether there is anything to see.
func (p *panel) differs() bool {
	for _, s := range p.spreads {
		if s.min != p.spreads[0].min || s.max != p.spreads[0].max {
			return true
		}
	}
	return false
}

// scale finds what the axis begins and ends with.
func (p *panel) scale() {
	least := math.Inf(1)
	for _, s := range p.spreads {
		p.high = max(p.high, s.max)
		least = min(least, s.min)
	}
	if p.high <= 0 {
		p.high = 1
	}
	if p.metric.log {
		// The next power of ten below, so that the shortest bar can be seen.
		p.low = math.Pow(10, math.Floor(math.Log10(max(least, p.high/1e6)*0.9)))
	}
}

// x is how far to the right a number is.
func (p *panel) x(v float64) float64 {
	share := v / p.high
	if p.metric.log {
		share = math.Log(max(v, p.low)/p.low) / math.Log(p.high/p.low)
	}
	return barWidth * min(max(share, 0), 1)
}

func (p *panel) height() int { return titleHeight + len(p.peers)*rowHeight }

func (p *panel) draw(b *strings.Builder) {
	note := "more is better"
	if p.metric.less {
		note = "less is better"
	}
	if p.metric.log {
		note += ", logarithmic scale from " + number(p.low)
	}
	fmt.Fprintf(b, "<text class=\"title\" x=\"0\" y=\"13\">%s: %s</text>\n", html.EscapeString(p.scenario.title), html.EscapeString(p.metric.title))
	fmt.Fprintf(b, "<text class=\"note\" x=\"0\" y=\"29\">%s; the line is from the smallest to the largest</text>\n", note)
	for i := range p.peers {
		p.drawRow(b, i)
	}
	fmt.Fprintf(b, "<line class=\"axis\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", labelWidth, titleHeight-2, labelWidth, p.height())
}

// drawRow draws a peer's bar, with a line from its smallest to its largest number.
func (p *panel) drawRow(b *strings.Builder, i int) {
	s, top := p.spreads[i], titleHeight+i*rowHeight
	middle := float64(top) + barHeight/2
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", labelWidth-8, top+11, html.EscapeString(p.peers[i].name))
	fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", p.peers[i].kind, labelWidth, top, p.x(s.median), barHeight)
	low, high := labelWidth+p.x(s.min), labelWidth+p.x(s.max)
	if s.n > 1 {
		fmt.Fprintf(b, "<path class=\"whisker\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>\n", low, middle, high, low, middle-3, high, middle-3)
	}
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", high+6, top+11, number(s.median))
}
