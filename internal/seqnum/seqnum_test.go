package seqnum

import "testing"

// Numbers on both sides of the wrap.
const (
	top  Value = 1<<32 - 1
	half Value = 1 << 31
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		v, w Value // v comes before w
	}{
		{"neighbours", 1, 2},
		{"over the wrap", top, 0},
		{"far over the wrap", top - 1000, 1000},
		{"past the middle", half - 1, half},
		{"as far apart as can be told", 0, half - 1},
		{"as far apart as can be told, over the wrap", top - 9, half - 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.v.LessThan(tt.w) {
				t.Errorf("%d does not come before %d", tt.v, tt.w)
			}
			if tt.w.LessThan(tt.v) {
				t.Errorf("%d comes before %d", tt.w, tt.v)
			}
		})
	}
}

func TestEqual(t *testing.T) {
	for _, v := range []Value{0, 1, half, top} {
		if v.LessThan(v) || v.Size(v) != 0 {
			t.Errorf("%d is not equal to itself", v)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		v    Value
		s    Size
		want Value // s octets after v
	}{
		{0, 0, 0},
		{100, 1, 101},
		{top, 1, 0},
		{top - 9, 20, 10},
		{half, Size(half), 0},
		{1, Size(top), 0}, // all but one octet round
	} {
		if got := tt.v.Add(tt.s); got != tt.want {
			t.Errorf("%d + %d = %d, want %d", tt.v, tt.s, got, tt.want)
		}
		if got := tt.want.Sub(tt.s); got != tt.v {
			t.Errorf("%d - %d = %d, want %d", tt.want, tt.s, got, tt.v)
		}
		if got := tt.v.Size(tt.want); got != tt.s {
			t.Errorf("from %d to %d: %d, want %d", tt.v, tt.want, got, tt.s)
		}
	}
}
