package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lethe/internal/operator"
	"lethe/internal/wait"
	"lethe/internal/wire"
)

const (
	// maxLine is the longest line of a stream, in bytes. A job of a large room has a few
	// kilobytes.
	maxLine = 4 << 20

	// minReconnect and maxReconnect bound the wait before a stream is asked for again,
	// before jitter.
	minReconnect = 200 * time.Millisecond
	maxReconnect = 10 * time.Second

	// silence is the longest time without a byte from the server, which sends a comment
	// if nothing happens.
	silence = time.Minute
)

// An Event is what a stream tells of a job.
type Event struct {
	// ID is the event's number, 0 if it has none.
	ID int64

	// Job is the job after the event.
	Job operator.Job
}

// Follow calls do for each event of a job, or of all jobs if the id is "", until do
// returns false or the context ends. It connects again after the last event that it has
// seen, so do sees each event at least once. lost is told why a connection ended; it may
// be nil.
//
// Follow returns nil when do has returned false. It fails if the API refuses the stream,
// and with the context's error.
func (c *Client) Follow(ctx context.Context, id string, do func(Event) bool, lost func(error)) error {
	stream := &stream{client: c, path: "events", do: do}
	if id != "" {
		stream.path = path("jobs", id, "events")
	}
	backoff := wait.Backoff{Min: minReconnect, Max: maxReconnect}
	for {
		err := stream.connect(ctx, backoff.Reset)
		var refused *wire.Error
		switch {
		case errors.Is(err, errStopped):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused) && refused.Status/100 == 4 && refused.Status != http.StatusTooManyRequests:
			return err
		}
		if lost != nil {
			lost(err)
		}
		if err := backoff.Wait(ctx); err != nil {
			return err
		}
	}
}

// errStopped is returned when do wants no more events.
var errStopped = errors.New("stopped")

// A stream is a stream of events over any number of connections.
type stream struct {
	client *Client
	path   string
	last   string // the id of the last event, "" if there was none
	do     func(Event) bool
}

// connect reads events from one connection until it ends. It calls heard for each event.
func (s *stream) connect(ctx context.Context, heard func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("no word for %s", silence)) })
	defer quiet.Stop()
	header := http.Header{"Accept": {"text/event-stream"}}
	if s.last != "" {
		header.Set("Last-Event-ID", s.last)
	}
	response, err := s.client.send(ctx, request{method: http.MethodGet, path: s.path}, header)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case response.StatusCode != http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(response.Body, maxError+1))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return refusal(response.StatusCode, body)
	case media != "text/event-stream":
		return fmt.Errorf("%w: it is no stream of events", ErrAnswer)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	var id string
	var data strings.Builder
	for lines.Scan() {
		quiet.Reset(silence)
		line := lines.Text()
		if line == "" { // the end of an event
			if data.Len() > 0 {
				heard()
				if err := s.event(id, data.String()); err != nil {
					return err
				}
			}
			id = ""
			data.Reset()
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			id = value
		case "data":
			if data.Len()+len(value) > maxLine {
				return fmt.Errorf("%w: an event is longer than %d bytes", ErrAnswer, maxLine)
			}
			data.WriteString(value)
			data.WriteByte('\n')
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the events: %w", err)
	}
	return io.ErrUnexpectedEOF
}

// event takes an event. Its data is a job, or an object with the job.
func (s *stream) event(id, data string) error {
	var wrapped struct {
		Job *operator.Job `json:"job"`
	}
	event := Event{}
	if err := json.Unmarshal([]byte(data), &wrapped); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if wrapped.Job != nil {
		event.Job = *wrapped.Job
	} else if err := json.Unmarshal([]byte(data), &event.Job); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if number, err := strconv.ParseInt(id, 10, 64); err == nil && number > 0 {
		event.ID = number
		s.last = strconv.FormatInt(number, 10)
	}
	if event.Job.ID != "" && !s.do(event) {
		return errStopped
	}
	return nil
}
