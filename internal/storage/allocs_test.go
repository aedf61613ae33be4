//go:build !race

package storage

import "testing"

// The race detector allocates too, so this test is built only without it. make test also runs it
// that way.
func TestPackAllocs(t *testing.T) {
	requests := manyRequests()
	packed := Pack(requests)
	for _, c := range []struct {
		name string
		want float64
		run  func()
	}{
		{"Pack of 500", 2, func() { packed = Pack(requests) }},
		{"Unpack of 500", 1011, func() { _, _ = Unpack(packed) }},
	} {
		c.run()
		if got := testing.AllocsPerRun(20, c.run); got != c.want {
			t.Errorf("%s: %v allocations, want %v", c.name, got, c.want)
		}
	}
}
