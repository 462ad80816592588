package plot

import "time"

// A Change says what something is from a moment on.
type Change struct {
	At   time.Time
	What string
}

// A Span is a time in which something was the same. X and Width are its place in a picture.
type Span struct {
	What     string
	From, To time.Time
	X, Width float64
}

// SpansWidth is the width of a picture of spans.
const SpansWidth = 1000

// SpansOf returns what lies between changes, the last one up to the end. The changes are in
// the order of their times. Equal neighbours are one span.
func SpansOf(changes []Change, end time.Time) (spans []Span) {
	for i, change := range changes {
		to := end
		if i+1 < len(changes) {
			to = changes[i+1].At
		}
		if last := len(spans) - 1; last >= 0 && spans[last].What == change.What {
			spans[last].To = to
			continue
		}
		spans = append(spans, Span{What: change.What, From: change.At, To: to})
	}
	if len(spans) == 0 {
		return nil
	}
	begin := spans[0].From
	whole := end.Sub(begin).Seconds()
	place := func(t time.Time) float64 {
		if whole <= 0 {
			return 0
		}
		return min(SpansWidth, max(0, SpansWidth*t.Sub(begin).Seconds()/whole))
	}
	for i := range spans {
		spans[i].X = place(spans[i].From)
		spans[i].Width = max(0, place(spans[i].To)-spans[i].X)
	}
	return spans
}
