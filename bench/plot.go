package main

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// curve is a line of a plot.
type curve struct {
	name   string
	color  color.Color
	dashed bool
	points plotter.XYs
}

// Colors that people with color blindness can tell apart (Okabe and Ito).
var (
	blue   = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	green  = color.RGBA{0x00, 0x9e, 0x73, 0xff}
)

// plot writes the curves to growth-DATABASE.png in a directory.
func (g *growth) plot(dir, database string) error {
	var create, claim, status, create99, claim99, status99, memory, waits, ideal, peaks plotter.XYs
	point := func(x int, y float64) plotter.XY { return plotter.XY{X: float64(x), Y: y} }
	for _, at := range g.Batches {
		n := at.Batches
		create, create99 = append(create, point(n, at.Create.P50)), append(create99, point(n, at.Create.P99))
		claim, claim99 = append(claim, point(n, at.Claim.P50)), append(claim99, point(n, at.Claim.P99))
		status, status99 = append(status, point(n, at.Status.P50)), append(status99, point(n, at.Status.P99))
		memory = append(memory, point(n, float64(at.Memory)/1e6))
	}
	for _, at := range g.Stores {
		waits, ideal = append(waits, point(at.Stores, at.Longest)), append(ideal, point(at.Stores, at.Ideal))
		peaks = append(peaks, point(at.Stores, float64(at.Peak)/1e6))
	}
	times, err := newPlot("Times by batches in the database: "+database, "batches", "ms",
		curve{"create, p50", blue, false, create}, curve{"p99", blue, true, create99},
		curve{"claim, p50", orange, false, claim}, curve{"p99", orange, true, claim99},
		curve{"status, p50", green, false, status}, curve{"p99", green, true, status99})
	if err != nil {
		return err
	}
	stores, err := newPlot("Longest wait by stores at work", "stores, one call of 1 s each", "s",
		curve{"measured", blue, false, waits}, curve{"if all came at once", orange, true, ideal})
	if err != nil {
		return err
	}
	mem, err := newPlot("Memory of the service", "batches, or stores at work", "MB",
		curve{"by batches", blue, false, memory}, curve{"by stores, peak", orange, false, peaks})
	if err != nil {
		return err
	}
	return writePlots(filepath.Join(dir, "growth-"+database+".png"), times, stores, mem)
}

// newPlot returns a plot with a logarithmic horizontal axis and a vertical axis that begins at 0.
func newPlot(title, x, y string, curves ...curve) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, powers{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding, p.Legend.YOffs = vg.Points(2), -vg.Points(2)
	p.Add(plotter.NewGrid())
	most := 0.0
	for _, c := range curves {
		line, dots, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		line.Color, dots.Color = c.color, c.color
		line.Width, dots.Shape, dots.Radius = vg.Points(1.5), draw.CircleGlyph{}, vg.Points(2)
		if c.dashed {
			line.Dashes = []vg.Length{vg.Points(3), vg.Points(2)}
		}
		p.Add(line, dots)
		p.Legend.Add(c.name, line)
		for _, at := range c.points {
			most = max(most, at.Y)
		}
	}
	// Leave room for the legend above the highest line.
	p.Y.Min, p.Y.Max = 0, max(most*(1.15+0.1*float64(len(curves))), 1)
	return p, nil
}

// powers marks the powers of ten.
type powers struct{}

func (powers) Ticks(least, most float64) (ticks []plot.Tick) {
	for n, i := 1.0, 0; n <= most*1.01; n, i = n*10, i+1 {
		if n >= least*0.99 {
			names := []string{"1", "10", "100", "1,000", "10,000", "100,000", "1 million"}
			ticks = append(ticks, plot.Tick{Value: n, Label: names[min(i, len(names)-1)]})
		}
	}
	return ticks
}

// writePlots writes plots side by side into a PNG file.
func writePlots(file string, plots ...*plot.Plot) error {
	const width, height = 5 * vg.Inch, 4 * vg.Inch
	img := vgimg.New(width*vg.Length(len(plots)), height)
	canvas := draw.New(img)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Points(12), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(12)}
	for i, c := range plot.Align([][]*plot.Plot{plots}, tiles, canvas)[0] {
		plots[i].Draw(c)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = vgimg.PngCanvas{Canvas: img}.WriteTo(f)
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}
