package progress

import (
	"fmt"
	"strings"
	"time"

	"lethe/internal/operator"
	"lethe/internal/output"
	"lethe/internal/terminal"
)

// Ended reports whether a job in this state has ended.
func Ended(state string) bool {
	return state == "complete" || state == "failed" || state == "cancelled"
}

// Duration returns a duration with its two greatest units, such as 3h12m.
func Duration(d time.Duration) string {
	d = max(d, 0)
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// of returns how far a job is, such as 1,200/20,000 events.
func of(job operator.Job) string {
	last := job.Done
	if job.Total != nil {
		last = *job.Total
	}
	return Done(job) + " " + output.Agree(last, unit(job), unit(job)+"s")
}

// The units that jobs go through.
const (
	eventUnit = "event"
	roomUnit  = "room"
)

// unit is what a job goes through.
func unit(job operator.Job) string {
	if strings.HasSuffix(job.Kind, "_sweep") {
		return roomUnit
	}
	return eventUnit
}

// doing returns what a job is doing, or what it waits for, or how it has ended.
func doing(job operator.Job, now time.Time) string {
	switch {
	case job.State == "complete":
		if unit(job) == roomUnit {
			return "complete: " + output.Counted(job.Done, roomUnit)
		}
		return "complete: deleted " + output.Counted(job.Events, eventUnit)
	case job.State == "failed":
		return "failed: " + terminal.Text(job.Error)
	case job.AbsorbedBy != "":
		return "absorbed by " + terminal.Text(job.AbsorbedBy)
	case Ended(job.State):
		return terminal.Text(job.State)
	case job.State == "scheduled" && job.Due > 0:
		text := "scheduled: begins in " + Duration(time.UnixMilli(job.Due).Sub(now))
		if _, then, stops := strings.Cut(job.WaitsFor, ", and then"); stops {
			text += ", and then" + terminal.Text(then)
		}
		return text
	case job.WaitsFor != "":
		text := terminal.Text(job.WaitsFor)
		if job.WaitsSince > 0 {
			text += " (for " + Duration(now.Sub(time.UnixMilli(job.WaitsSince))) + ")"
		}
		return text
	case job.State != "running":
		return terminal.Text(job.State)
	}
	text := output.Count(int64(job.Rate)) + "/s"
	if job.ETA != nil {
		// A rate of nearly nothing gives more seconds than a Duration holds.
		text += ", " + Duration(time.Duration(min(*job.ETA, 1e9)*float64(time.Second))) + " left"
	}
	return text
}
