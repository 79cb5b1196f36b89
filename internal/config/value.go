package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wrongType is the error for a value of another type than the key has.
func wrongType(v any, want string) error {
	return fmt.Errorf("want %s, got %s", want, described(v))
}

// described names a TOML value by its type, and shows it if it is short.
func described(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + shown(v)
	case int64:
		return "the number " + strconv.FormatInt(v, 10)
	case float64:
		return "the float " + strconv.FormatFloat(v, 'g', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	default:
		return "a list"
	}
}

// boolean reads true or false.
func boolean(dst *bool) func(any) error {
	return func(v any) error {
		b, ok := v.(bool)
		if !ok {
			return wrongType(v, "true or false")
		}
		*dst = b
		return nil
	}
}

// text reads a string that a function then judges.
func text(read func(string) error) func(any) error {
	return func(v any) error {
		s, ok := v.(string)
		if !ok {
			return wrongType(v, "a string")
		}
		return read(s)
	}
}

type unsigned interface{ ~uint8 | ~uint32 | ~int }

// number reads a whole number from an interval, both ends included.
func number[T unsigned](dst *T, first, last int64) func(any) error {
	return func(v any) error {
		n, ok := v.(int64)
		if !ok {
			return wrongType(v, "a whole number")
		}
		if n < first || n > last {
			return fmt.Errorf("%d is out of range (%d-%d)", n, first, last)
		}
		*dst = T(n)
		return nil
	}
}

// share reads a percentage as a share of 1.
func share(dst *float64) func(any) error {
	return func(v any) error {
		s, ok := v.(string)
		if !ok {
			return wrongType(v, `a percentage (such as "25%")`)
		}
		number, ok := strings.CutSuffix(s, "%")
		n, err := strconv.ParseFloat(number, 64)
		switch {
		case !ok || err != nil || math.IsNaN(n):
			return fmt.Errorf(`%s is not a percentage (such as "25%%")`, shown(s))
		case n <= 0 || n > 100:
			return fmt.Errorf("%s is out of range (more than 0%%, at most 100%%)", s)
		}
		*dst = n / 100
		return nil
	}
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 6, 64) + "%" }

// word reads one of several words; the value is its place among them.
func word[T ~uint8](dst *T, words []string) func(any) error {
	return text(func(s string) error {
		i := slices.Index(words, s)
		if i < 0 {
			return fmt.Errorf("%s is not %s%s", shown(s), either(words), DidYouMean(s, words))
		}
		*dst = T(i)
		return nil
	})
}

// either is `"a", "b" or "c"`.
func either(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	if last < 1 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// list reads a list, element by element. An empty one is refused: it could
// mean all as well as nothing.
func list[T any](dst *[]T, want string, read func(any) (T, error)) func(any) error {
	return func(v any) error {
		elements, ok := v.([]any)
		if !ok {
			return wrongType(v, want)
		}
		if len(elements) == 0 {
			return errors.New("is empty; leave the key out for any")
		}
		var errs []error
		for _, e := range elements {
			t, err := read(e)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			*dst = append(*dst, t)
		}
		return errors.Join(errs...)
	}
}

// maxDuration keeps sums of times and durations far from overflow.
const maxDuration = 10 * 365 * 24 * time.Hour

// duration reads Go's notation, or a number of seconds, which is pf's.
func duration(v any) (time.Duration, error) {
	d, err := anyDuration(v)
	if err == nil && d <= 0 {
		return 0, errors.New("a duration must be more than 0")
	}
	return d, err
}

func durationOrZero(v any) (time.Duration, error) {
	d, err := anyDuration(v)
	if err == nil && d < 0 {
		return 0, errors.New("a duration must not be less than 0")
	}
	return d, err
}

// anyDuration is at most maxDuration; whether it may be nothing, or less, is left to
// the caller.
func anyDuration(v any) (time.Duration, error) {
	var d time.Duration
	switch v := v.(type) {
	case int64:
		if v > int64(maxDuration/time.Second) {
			return 0, errLongDuration
		}
		// Below zero any value will do, but it must not wrap around.
		d = time.Duration(max(v, -1)) * time.Second
	case string:
		var err error
		if d, err = time.ParseDuration(v); err != nil {
			return 0, fmt.Errorf(`%s is not a duration (such as "90s", "15m", "24h", or a number of seconds)`, shown(v))
		}
	default:
		return 0, wrongType(v, `a duration (such as "90s", or a number of seconds)`)
	}
	if d > maxDuration {
		return 0, errLongDuration
	}
	return d, nil
}

var errLongDuration = errors.New("a duration must be 10 years (87600h) or less")
