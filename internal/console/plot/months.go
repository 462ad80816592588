package plot

import (
	"math"
	"time"
)

// A Count is how many events there are in a month of UTC.
type Count struct {
	// Month is its first moment.
	Month  time.Time
	Events int64
}

// A MonthBar is the rectangle of a month, in the units of its picture, from its upper left
// corner.
type MonthBar struct {
	X, Y, Width, Height float64
	Count
}

// Months is a picture of events by month, up to the current one.
type Months struct {
	Width, Height float64
	Bars          []MonthBar

	// Top is the number of events at the upper edge: a round number that no bar exceeds, 0
	// if there is no bar.
	Top float64

	// From and To are the months of the left and of the right bar.
	From, To time.Time
}

// maxMonths is the most months of a picture, and minMonths the fewest.
const (
	maxMonths = 60
	minMonths = 12
)

// MonthsOf returns a picture of the months up to that of now, from the first month with
// events, but of 12 to 60 months. Months outside of it are left out.
func MonthsOf(counts []Count, now time.Time) Months {
	const width, height = 10, 100 // of a bar, and of the highest
	number := func(t time.Time) int { t = t.UTC(); return t.Year()*12 + int(t.Month()) - 1 }
	last := number(now)
	first, highest := last-minMonths+1, int64(0)
	for _, count := range counts {
		if n := number(count.Month); count.Events > 0 && n <= last && n > last-maxMonths {
			first, highest = min(first, n), max(highest, count.Events)
		}
	}
	begin := func(n int) time.Time { return time.Date(n/12, time.Month(n%12+1), 1, 0, 0, 0, 0, time.UTC) }
	m := Months{Width: float64((last - first + 1) * width), Height: height, From: begin(first), To: begin(last), Top: roundUp(float64(highest))}
	for _, count := range counts {
		n := number(count.Month)
		if count.Events <= 0 || n < first || n > last {
			continue
		}
		tall := math.Min(height, math.Max(1, height*float64(count.Events)/m.Top)) // a small number can be seen
		m.Bars = append(m.Bars, MonthBar{X: float64((n - first) * width), Y: height - tall, Width: width - 1, Height: tall, Count: count})
	}
	return m
}
