package integration

// spareFootprint is how much more a daemon may hold at one moment than at another: the
// pipes of a program that it runs, and what the Go runtime comes to hold by itself.
func spareFootprint() (descriptors, threads, kilobytes int) {
	descriptors, threads, kilobytes = 4, 8, 32<<10
	if raceEnabled {
		kilobytes *= 2
	}
	return descriptors, threads, kilobytes
}

func (g *guarded) footprint() Footprint {
	g.t.Helper()
	return must[Footprint](g.t, "footprint")(FootprintOf(g.fw.Pid()))
}
