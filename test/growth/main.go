package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: growth FILE.json FILE.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var result table
	if err := json.Unmarshal(text, &result); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	axes, err := read(result)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(paint(out, axes), out.Close())
}

// A table is the part of the file that is drawn.
type table struct {
	Rows []struct {
		Case, Measure      string
		Subject, Reference sample
	}
}

// A sample is the median of what was measured at a size, and the size.
type sample struct {
	Name   string
	Median float64
}

// An axis is something of which there was more and more.
type axis struct {
	of    string
	sizes []float64 // how many
	steps []step    // in the order of the table
}

// A step is how long something took at each size.
type step struct {
	name         string
	milliseconds []float64
}

// read returns the axes of the table's case growth, in the order of the table.
func read(result table) ([]axis, error) {
	var axes []axis
	for _, row := range result.Rows {
		if row.Case != "growth" {
			continue
		}
		name, of, ok := strings.Cut(strings.TrimSuffix(row.Measure, ", ms"), " by ")
		if !ok {
			return nil, fmt.Errorf("the measure %q does not say by what it grows", row.Measure)
		}
		a := slices.IndexFunc(axes, func(a axis) bool { return a.of == of })
		if a < 0 {
			a, axes = len(axes), append(axes, axis{of: of})
		}
		s := slices.IndexFunc(axes[a].steps, func(s step) bool { return s.name == name })
		if s < 0 {
			s, axes[a].steps = len(axes[a].steps), append(axes[a].steps, step{name: name})
		}
		for _, at := range []sample{row.Reference, row.Subject} {
			digits, _, _ := strings.Cut(at.Name, " ")
			size, err := strconv.ParseFloat(digits, 64)
			if err != nil || size <= 0 || at.Median <= 0 {
				return nil, fmt.Errorf("%s: a size or a time is not a positive number", row.Measure)
			}
			i := slices.Index(axes[a].sizes, size)
			if i < 0 {
				i, axes[a].sizes = len(axes[a].sizes), append(axes[a].sizes, size)
			}
			times := &axes[a].steps[s].milliseconds
			if i == len(*times) {
				*times = append(*times, at.Median)
			}
		}
	}
	if len(axes) == 0 {
		return nil, errors.New("it has no case growth")
	}
	for _, a := range axes {
		for _, s := range a.steps {
			if len(s.milliseconds) != len(a.sizes) {
				return nil, fmt.Errorf("the step %q by %s is not measured at every size", s.name, a.of)
			}
		}
	}
	return axes, nil
}

// The picture is as wide as a page of documentation, with a plot for each axis, one below
// the other. A browser draws 96 pixels to an inch.
const (
	pixel      = vg.Inch / 96
	width      = 700 * pixel
	plotHeight = 270 * pixel
)

// hues can be told apart by people who are blind to colours, and differ in their marks.
var hues = []color.Color{
	color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff},
	color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff},
	color.RGBA{R: 0x00, G: 0x9e, B: 0x73, A: 0xff},
}

var marks = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}}

var grey = color.Gray{Y: 0x99}

func paint(out io.Writer, axes []axis) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	canvas := vgsvg.New(width, plotHeight*vg.Length(len(axes)))
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	plots := make([][]*plot.Plot, len(axes))
	for i, a := range axes {
		p, err := plotOf(a)
		if err != nil {
			return err
		}
		plots[i] = []*plot.Plot{p}
	}
	tiles := draw.Tiles{Rows: len(axes), Cols: 1, PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(14), PadY: vg.Points(14)}
	for i, row := range plot.Align(plots, tiles, whole) {
		plots[i][0].Draw(row[0])
	}
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	// Not every reader has the font that the text was measured with. The others are as wide.
	_, err := out.Write(bytes.ReplaceAll(picture.Bytes(), []byte("Liberation Sans"), []byte("Liberation Sans,Arial,Helvetica,sans-serif")))
	return err
}

// plotOf plots the steps of an axis, each against its first point.
func plotOf(a axis) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = "by the number of " + a.of
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Y.Label.Text = "times as long"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Min, p.X.Max = a.sizes[0], slices.Max(a.sizes)
	p.Y.Min, p.Y.Max = 0.5, 3*slices.Max(a.sizes)/a.sizes[0]
	p.X.Tick.Marker = sizes(a.sizes)
	p.Y.Tick.Marker = sizes{1, 10, 100}
	p.Legend.Left, p.Legend.Top = true, true
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-4)
	p.Legend.ThumbnailWidth, p.Legend.Padding = vg.Points(24), vg.Points(2)
	for i, s := range a.steps {
		line, points, err := plotter.NewLinePoints(against(a.sizes, s.milliseconds))
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = hues[i%len(hues)], vg.Points(1.8)
		points.GlyphStyle = draw.GlyphStyle{Color: hues[i%len(hues)], Radius: vg.Points(3), Shape: marks[i%len(marks)]}
		p.Add(line, points)
		p.Legend.Add(fmt.Sprintf("%s: %s, then %s", s.name, duration(s.milliseconds[0]), duration(s.milliseconds[len(s.milliseconds)-1])), line, points)
	}
	for _, ideal := range []struct {
		name string
		of   func(size float64) float64
		dash vg.Length
	}{
		{"n times as long for n times as many, O(n)", func(size float64) float64 { return size }, vg.Points(5)},
		{"as long for any number, O(1)", func(float64) float64 { return 1 }, vg.Points(1.5)},
	} {
		var times []float64
		for _, size := range a.sizes {
			times = append(times, ideal.of(size))
		}
		line, err := plotter.NewLine(against(a.sizes, times))
		if err != nil {
			return nil, err
		}
		line.Color, line.Dashes = grey, []vg.Length{ideal.dash, vg.Points(3)}
		p.Add(line)
		p.Legend.Add(ideal.name, line)
	}
	return p, nil
}

// against returns the points of times, as multiples of the first.
func against(sizes, times []float64) plotter.XYs {
	points := make(plotter.XYs, len(sizes))
	for i := range sizes {
		points[i] = plotter.XY{X: sizes[i], Y: times[i] / times[0]}
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
	return points
}

// sizes are the places of ticks.
type sizes []float64

// Ticks implements [plot.Ticker].
func (s sizes) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for _, size := range s {
		ticks = append(ticks, plot.Tick{Value: size, Label: grouped(size)})
	}
	return ticks
}

// grouped formats a whole number with commas between groups of three digits.
func grouped(n float64) string {
	digits := strconv.FormatFloat(n, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// duration formats milliseconds with two digits or more.
func duration(milliseconds float64) string {
	value, unit := milliseconds, " ms"
	if value >= 1000 {
		value, unit = value/1000, " s"
	}
	if value >= 10 {
		return strconv.FormatFloat(value, 'f', 0, 64) + unit
	}
	return strconv.FormatFloat(value, 'g', 2, 64) + unit
}
