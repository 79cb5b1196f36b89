package config

import (
	"fmt"
	"strings"
)

// DidYouMean gives the known word next to a misspelt one, as the end of an
// error, or nothing if none is near.
func DidYouMean(word string, known []string) string {
	word = strings.ToLower(word)
	best, near := "", len(word)/3+1
	for _, k := range known {
		if d := distance(word, k, near); d < near {
			best, near = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance counts the letters to insert, delete, replace or swap with the next
// to get from a to b (optimal string alignment), or gives limit if it is that
// many or more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var before []int // the row before above
	above := make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			row[j] = min(above[j], row[j-1]) + 1
			if a[i-1] == b[j-1] {
				row[j] = min(row[j], above[j-1])
			}
			row[j] = min(row[j], above[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return min(above[len(b)], limit)
}
