package table

import (
	"strings"
	"testing"
)

func TestPrint(t *testing.T) {
	table := New("what", "p50")
	table.Add("one – by one", "1 ms")
	table.Add("short")
	var out strings.Builder
	if err := table.Print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
| what         | p50  |
|--------------|------|
| one – by one | 1 ms |
| short        |      |

`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_002_030: "1,002,030"} {
		if got := Thousands(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
