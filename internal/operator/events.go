package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/observe"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

const (
	// lookInterval is the time between two looks for events.
	lookInterval = 500 * time.Millisecond

	// beatInterval is the longest time without a line. Proxies end connections on which
	// nothing comes.
	beatInterval = 15 * time.Second

	// writeTime bounds the write of one look's events. A client that reads nothing is left.
	writeTime = 30 * time.Second

	// maxStreams bounds the clients that follow events at once.
	maxStreams = 100

	// maxEvents is the most events of one look.
	maxEvents = 500
)

var errStreams = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "Too many clients follow events", RetryAfter: 10_000,
}

// errUnsettled is the refusal to begin at the newest event while it is not known.
var errUnsettled = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "An event of a job is being written", RetryAfter: 2000,
}

// eventsOfJob is GET /_lethe/v1/jobs/{job_id}/events.
func (o *Operator) eventsOfJob(c echo.Context, _ string) error {
	job, _, err := o.one(c.Request().Context(), c)
	if err != nil {
		return err
	}
	return o.stream(c, job.ID)
}

// events is GET /_lethe/v1/events.
func (o *Operator) events(c echo.Context, _ string) error { return o.stream(c, "") }

// A follower sends events to one client, as server-sent events. A change of a job has an
// id, by which the client goes on after a lost connection. The progress of jobs has none:
// the next one replaces it.
type follower struct {
	o      *Operator
	c      echo.Context
	job    string // "" for all
	after  int64
	sent   map[string]int64 // the times of the last progress that was sent
	wrote  time.Time
	closed bool // the job has ended, and its end was sent
}

// stream sends events until the client goes, the request's time is over, or the job has
// ended.
func (o *Operator) stream(c echo.Context, job string) error {
	q := wire.QueryOf(c)
	after := q.Integer("after", -1)
	if err := q.Err(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	if sent := c.Request().Header.Get("Last-Event-ID"); after < 0 && sent != "" {
		n, err := strconv.ParseInt(sent, 10, 64)
		if err != nil || n < 0 {
			return wire.InvalidParam("The header Last-Event-ID must be the id of an event")
		}
		after = n
	}
	select {
	case o.streams <- struct{}{}:
	default:
		return errStreams
	}
	defer func() { <-o.streams }()
	f := &follower{o: o, c: c, job: job, after: after, sent: map[string]int64{}}
	resumed := after >= 0
	switch last, err := o.control.LastEvent(ctx); {
	case resumed && err == nil:
		// A place beyond the newest event comes from a database that was restored since.
		f.after = min(after, last)
	case resumed: // its place is what it is
	case job != "":
		f.after = 0 // without a place, the events of a job begin at its beginning
	case err != nil:
		return wire.Instead(err, control.ErrUnsettled, errUnsettled)
	default:
		f.after = last // and those of all jobs now
	}
	if job != "" && resumed {
		// A browser connects again after the end, unless it is told that there is no more.
		over, err := f.over(ctx)
		if err != nil || over {
			return errors.Join(err, endStream(c, over))
		}
	}
	header := c.Response().Header()
	header.Set(echo.HeaderContentType, "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	c.Response().WriteHeader(http.StatusOK)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	return f.run(ctx)
}

// endStream tells a client that no event will follow.
func endStream(c echo.Context, over bool) error {
	if !over {
		return nil
	}
	return c.NoContent(http.StatusNoContent)
}

// over reports whether the job has ended and all of its events were sent.
func (f *follower) over(ctx context.Context) (bool, error) {
	row, err := f.o.control.Job(ctx, f.job)
	if err != nil || !row.State.Ended() {
		return false, err
	}
	rows, err := f.o.control.Events(ctx, f.after, f.job, 1)
	return len(rows) == 0, err
}

// run sends what happens. The answer has begun, so an error only ends it.
func (f *follower) run(ctx context.Context) error {
	for {
		err := f.look(ctx)
		if err == nil && time.Since(f.wrote) > beatInterval {
			err = f.write([]byte(": still here\n\n"))
		}
		if err != nil || f.closed {
			if ctx.Err() != nil {
				return nil // the client goes on with another request
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-observe.Draining(ctx):
			return nil // the client goes on with another process
		case <-time.After(lookInterval):
		}
	}
}

// look sends the events since the last look, and the progress of jobs that run.
func (f *follower) look(ctx context.Context) error {
	rows, err := f.o.control.Events(ctx, f.after, f.job, maxEvents)
	if err != nil {
		return err
	}
	var ended bool
	for _, row := range rows {
		job, err := f.o.control.Job(ctx, row.JobID)
		if errors.Is(err, postgres.ErrNotFound) { // pruned
			continue
		}
		if err != nil {
			return err
		}
		shown := f.o.show(ctx, []control.Job{job})[0]
		if err := f.send(row.ID, "job", JobEvent{Event: eventOf(row), Job: shown}); err != nil {
			return err
		}
		f.after, f.sent[job.ID] = row.ID, shown.Updated
		ended = f.job != "" && job.State.Ended()
	}
	if ended && len(rows) < maxEvents {
		f.closed = true
		return nil
	}
	return f.progress(ctx)
}

// progress sends the running jobs that have moved since they were sent.
func (f *follower) progress(ctx context.Context) error {
	filter := control.Filter{States: []journal.State{journal.Running, journal.Queued}}
	if f.job != "" {
		filter.IDs = []string{f.job}
	} else {
		filter.States = filter.States[:1]
	}
	rows, _, err := f.o.control.Jobs(ctx, filter, control.Page{Limit: pageSize})
	if err != nil {
		return err
	}
	seen := make(map[string]int64, len(rows))
	for _, job := range f.o.show(ctx, rows) {
		seen[job.ID] = job.Updated
		if f.sent[job.ID] == job.Updated {
			continue
		}
		if err := f.send(0, "progress", job); err != nil {
			return err
		}
	}
	f.sent = seen
	return nil
}

// send writes one event.
func (f *follower) send(id int64, name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("render the event: %w", err)
	}
	var event []byte
	if id > 0 {
		event = fmt.Appendf(event, "id: %d\n", id)
	}
	return f.write(fmt.Appendf(event, "event: %s\ndata: %s\n\n", name, text)) // JSON has no line breaks
}

func (f *follower) write(text []byte) error {
	connection := http.NewResponseController(f.c.Response())
	// Only connections in tests do not support deadlines.
	_ = connection.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := f.c.Response().Write(text); err != nil {
		return fmt.Errorf("send an event: %w", err)
	}
	f.wrote = time.Now()
	f.c.Response().Flush()
	return nil
}
