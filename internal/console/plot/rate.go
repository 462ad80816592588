package plot

import (
	"math"
	"time"
)

// A Run is a time in which a job has worked, and how many events it has gone through.
type Run struct {
	From, To time.Time
	Events   int64
}

// A Bar is a rectangle of a picture, in its units, from its upper left corner.
type Bar struct {
	X, Y, Width, Height float64

	// From and To are the time that the bar stands for.
	From, To time.Time

	// Rate is the events per second in that time.
	Rate float64
}

// A Rate is a picture of the events per second over a time.
type Rate struct {
	Width, Height float64
	Bars          []Bar

	// Top is the rate at the upper edge: a round number that no bar exceeds, 0 if there is
	// no bar.
	Top float64

	// From and To are the time at the left and at the right edge.
	From, To time.Time
}

// RateOf returns a picture with that many bars of equal times up to the moment. Each run's
// events are spread evenly over its time.
func RateOf(runs []Run, until time.Time, bar time.Duration, bars int) Rate {
	const width, height = 10, 100 // of a bar, and of the highest
	r := Rate{Width: float64(bars * width), Height: height, From: until.Add(-time.Duration(bars) * bar), To: until}
	rates := make([]float64, bars)
	for _, run := range runs {
		took := run.To.Sub(run.From)
		if run.Events <= 0 || took < 0 || !run.To.After(r.From) || run.From.After(until) {
			continue
		}
		took = max(took, time.Second) // a run of an instant has a rate, too
		first := max(0, int(run.From.Sub(r.From)/bar))
		for i := first; i < bars; i++ {
			from := r.From.Add(time.Duration(i) * bar)
			overlap := min(from.Add(bar).Sub(run.From), bar, run.From.Add(took).Sub(from), took)
			if overlap <= 0 {
				break
			}
			rates[i] += float64(run.Events) * overlap.Seconds() / took.Seconds() / bar.Seconds()
		}
	}
	highest := 0.0
	for _, rate := range rates {
		highest = max(highest, rate)
	}
	r.Top = roundUp(highest)
	for i, rate := range rates {
		if rate <= 0 {
			continue
		}
		from := r.From.Add(time.Duration(i) * bar)
		tall := min(height, max(1, height*rate/r.Top)) // a small rate can be seen
		r.Bars = append(r.Bars, Bar{
			X: float64(i * width), Y: height - tall, Width: width - 1, Height: tall, From: from, To: from.Add(bar), Rate: rate,
		})
	}
	return r
}

// roundUp returns the next number of 1, 2 and 5 times a power of ten, 0 for 0.
func roundUp(n float64) float64 {
	if n <= 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0
	}
	power := math.Pow(10, math.Floor(math.Log10(n)))
	for _, factor := range []float64{1, 2, 5} {
		if n <= factor*power {
			return factor * power
		}
	}
	return 10 * power
}
