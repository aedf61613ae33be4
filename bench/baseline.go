package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// maxLoss is the largest accepted decrease of a ratio, relative to the baseline.
const maxLoss = 0.15

// baseline holds the ratios of a release by database, then by scenario.
type baseline map[string]map[string]float64

// name returns the scenario's key in a baseline.
func (c *comparison) name() string { return c.Scenario + ", " + c.Upstream }

// readBaseline reads a baseline. It is empty if the file doesn't exist yet.
func readBaseline(file string) (baseline, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return baseline{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := baseline{}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("the baseline %s: %w", file, err)
	}
	return out, nil
}

// renew writes the measured ratios to the file and keeps its other ratios.
func (b baseline) renew(file, database string, measured []comparison) error {
	if b[database] == nil {
		b[database] = map[string]float64{}
	}
	for _, c := range measured {
		b[database][c.name()] = float64(int(c.Ratio*1000+0.5)) / 1000
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// check compares the measured ratios with the baseline and prints a table. It returns an error if
// one decreased too much or has no baseline.
func (b baseline) check(w io.Writer, database string, measured []comparison) error {
	t := table.New("scenario", "baseline", "now", "change", "")
	failed := 0
	for _, c := range measured {
		before, known := b[database][c.name()]
		if !known {
			failed++
			t.Add(c.name(), "none", fmt.Sprintf("%.2f", c.Ratio), "", "NOT COMPARED")
			continue
		}
		change := c.Ratio/before - 1
		verdict := "fine"
		if change < -maxLoss {
			failed++
			verdict = "LOST"
		}
		t.Add(c.name(), fmt.Sprintf("%.2f", before), fmt.Sprintf("%.2f", c.Ratio), fmt.Sprintf("%+.0f%%", 100*change), verdict)
	}
	fmt.Fprintf(w, "Ratios compared with the baseline, on %s; a decrease of more than %.0f%% fails.\n", database, 100*maxLoss)
	if err := t.Print(w); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d ratios are more than %.0f%% below the baseline or have none: measure again on a quiet machine; "+
			"if the result is the same, find the change that caused it, or accept the new ratios with -renew and say why in the commit", failed, len(measured), 100*maxLoss)
	}
	return nil
}
