package plot

import (
	"math"
	"time"
)

// A Point is how far something had come at a moment.
type Point struct {
	At   time.Time
	Done int64
}

// PaceOf returns a picture of how fast something went from the start on: a bar from each
// point to the next one, as high as the rate between them. Points that are not in order, or
// before the start, are left out.
func PaceOf(start time.Time, points []Point) Rate {
	const width, height = 1000, 100
	r := Rate{Width: width, Height: height, From: start, To: start}
	last := Point{At: start}
	for _, point := range points {
		took := point.At.Sub(last.At)
		if took <= 0 || point.Done < last.Done {
			continue
		}
		rate := (float64(point.Done) - float64(last.Done)) / took.Seconds()
		r.Bars = append(r.Bars, Bar{From: last.At, To: point.At, Rate: rate})
		r.Top, last = math.Max(r.Top, rate), point
	}
	r.Top, r.To = roundUp(r.Top), last.At
	whole := r.To.Sub(r.From).Seconds()
	if r.Top == 0 || whole <= 0 {
		return Rate{Width: width, Height: height, From: r.From, To: r.To}
	}
	for i := range r.Bars {
		bar := &r.Bars[i]
		bar.X = width * bar.From.Sub(r.From).Seconds() / whole
		bar.Width = math.Min(width-bar.X, width*bar.To.Sub(bar.From).Seconds()/whole)
		if bar.Rate > 0 {
			bar.Height = math.Min(height, math.Max(1, height*bar.Rate/r.Top)) // a small rate can be seen
		}
		bar.Y = height - bar.Height
	}
	return r
}
