package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/operator"
	"lethe/internal/wire"
)

const testToken = "syt_admin"

// hostile is a text that would clear the terminal, name a window, and turn around what
// follows.
const hostile = "a\x1b[2J\x1b]0;x\a\u009b1m\u202eb\nc"

// An apiServer is an API as the contract says it. It refuses what it does not know.
type apiServer struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	jobs     map[string]operator.Job
	requests []string // method, path and query, and the body
	next     int
	streams  int                                             // connections to a stream
	onGet    func(operator.Job) operator.Job                 // what a look at a job shows
	stream   func(w http.ResponseWriter, n int, last string) // answers the n-th connection
	held     map[string]operator.Hold
	pages    int  // of the list of jobs
	blind    bool // says that it does not know of workers
}

func newAPI(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{t: t, jobs: map[string]operator.Job{}, held: map[string]operator.Hold{}}
	server := httptest.NewServer(s.handler())
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *apiServer) put(job operator.Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs[job.ID] = job
}

func (s *apiServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

func (s *apiServer) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, queries string, do func(r *http.Request, body []byte) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
			var answer any
			if auth := r.Header.Get("Authorization"); auth != "" && auth != "Bearer "+testToken {
				err = wire.New(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "Invalid access token passed.")
			}
			for name := range r.URL.Query() {
				if !strings.Contains(" "+queries+" ", " "+name+" ") {
					err = wire.InvalidParam("unknown parameter " + name)
				}
			}
			if err == nil {
				answer, err = do(r, body)
			}
			var refusal *wire.Error
			status := http.StatusOK
			if err != nil {
				if !errors.As(err, &refusal) {
					refusal = wire.BadJSON(err.Error())
				}
				status, answer = refusal.Status, refusal
			} else if _, ok := answer.(operator.Accepted); ok {
				status = http.StatusAccepted
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	strict := func(body []byte, into any) error {
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		return decoder.Decode(into)
	}
	accept := func(into any, room *string, acceptance *operator.Acceptance, kind string) func(*http.Request, []byte) (any, error) {
		return func(_ *http.Request, body []byte) (any, error) {
			if err := strict(body, into); err != nil {
				return nil, err
			}
			if hold, ok := s.held[*room]; ok {
				return nil, wire.Forbidden("The room " + hold.Room + " is held: " + hold.Reason)
			}
			if acceptance.Plan == "drifted" {
				return nil, wire.New(http.StatusConflict, "M_UNKNOWN", "The room has changed")
			}
			s.next++
			job := operator.Job{ID: fmt.Sprintf("JobNumber%07d", s.next), Kind: kind, Room: *room, State: "queued", Created: 1, Updated: 1}
			s.jobs[job.ID] = job
			accepted := operator.Accepted{ID: job.ID, State: job.State}
			if *room == "!typo:x" {
				accepted.Warnings = []string{"The database knows no room !typo:x"}
			}
			return accepted, nil
		}
	}
	var purge operator.PurgeRequest
	handle("POST /_lethe/v1/purges", "", accept(&purge, &purge.Room, &purge.Acceptance, "purge_history"))
	var del operator.DeleteRequest
	handle("POST /_lethe/v1/deletes", "", accept(&del, &del.Room, &del.Acceptance, "delete_room"))
	var sweep operator.SweepRequest
	handle("POST /_lethe/v1/sweeps", "", accept(&sweep, new(""), &sweep.Acceptance, "retention_sweep"))
	handle("GET /_lethe/v1/jobs", "state kind room requester since limit from", func(r *http.Request, _ []byte) (any, error) {
		page := operator.Jobs{Jobs: []operator.Job{}}
		states := r.URL.Query()["state"]
		for _, job := range s.jobs {
			if len(states) == 0 || strings.Contains(strings.Join(states, " "), job.State) {
				page.Jobs = append(page.Jobs, job)
			}
		}
		from, _ := strconv.Atoi(r.URL.Query().Get("from"))
		if from < s.pages {
			page.Next = new(strconv.Itoa(from + 1))
		}
		return page, nil
	})
	handle("GET /_lethe/v1/jobs/{id}", "", func(r *http.Request, _ []byte) (any, error) {
		job, ok := s.jobs[r.PathValue("id")]
		if !ok {
			return nil, wire.NotFound("No such job")
		}
		if s.onGet != nil {
			job = s.onGet(job)
			s.jobs[job.ID] = job
		}
		return job, nil
	})
	handle("POST /_lethe/v1/jobs/{id}/{verb}", "", func(r *http.Request, body []byte) (any, error) {
		var asked operator.VerbRequest
		if err := strict(body, &asked); err != nil {
			return nil, err
		}
		job, ok := s.jobs[r.PathValue("id")]
		if !ok {
			return nil, wire.NotFound("No such job")
		}
		if job.Ended != 0 {
			return nil, wire.New(http.StatusConflict, "M_UNKNOWN", "The job cannot be "+operator.Participle(r.PathValue("verb"))+": it has ended")
		}
		if !asked.DryRun && r.PathValue("verb") == "cancel" {
			job.State, job.Ended = "cancelled", 2
			s.jobs[job.ID] = job
		}
		return operator.Outcome{Job: job, Done: true}, nil
	})
	handle("POST /_lethe/v1/jobs/bulk", "", func(_ *http.Request, body []byte) (any, error) {
		var asked operator.BulkRequest
		if err := strict(body, &asked); err != nil {
			return nil, err
		}
		done := operator.Outcomes{Outcomes: []operator.Outcome{}}
		for _, job := range s.jobs {
			outcome := operator.Outcome{Job: job, Done: job.Ended == 0}
			done.Matched++
			if outcome.Done {
				done.Done++
			} else {
				outcome.Refusal = "it has ended"
			}
			done.Outcomes = append(done.Outcomes, outcome)
		}
		return done, nil
	})
	handle("POST /_lethe/v1/plans", "", func(_ *http.Request, body []byte) (any, error) {
		var asked operator.PlanRequest
		if err := strict(body, &asked); err != nil {
			return nil, err
		}
		if asked.Kind == "retention_sweep" {
			return json.RawMessage(`{"kind":"retention_sweep","delete_local_events":false,"events":0,"media":0,"estimated_bytes":9,"state_groups":{"rows":0,"estimated_bytes":0,"exact":false},
				"users":[],"users_count":0,"rooms":[{"room_id":"!a:x","events":3}],"warnings":[],"digest":"1-0-abc"}`), nil
		}
		return json.RawMessage(`{"kind":"` + asked.Kind + `","events":12345,"tables":{"events":{"rows":12345,"estimated_bytes":2500000,"exact":true}},
			"users":["@a:x","@b:x"],"new_field":[{"x":1}],"warnings":["it looks like seconds ` + "\u202e" + `"],"digest":"1-12345-abc"}`), nil
	})
	handle("GET /_lethe/v1/rooms", "limit from", func(*http.Request, []byte) (any, error) {
		return json.RawMessage(`{"rooms":[{"room_id":"!big:x","estimated_bytes":123456789},{"room_id":"!small:x","estimated_bytes":9}],"next":null}`), nil
	})
	handle("GET /_lethe/v1/rooms/{room}", "", func(r *http.Request, _ []byte) (any, error) {
		return map[string]any{"room_id": r.PathValue("room"), "tables": map[string]any{"events": map[string]any{"rows": 7}}}, nil
	})
	handle("GET /_lethe/v1/fleet", "", func(*http.Request, []byte) (any, error) {
		if s.blind {
			return operator.Fleet{Limits: []operator.Limit{}}, nil
		}
		return operator.Fleet{
			Limits:     []operator.Limit{{Kind: "purge_history", RowsPerSecond: new(500), Jobs: new(2), Who: "@admin:x", Set: 1}},
			Workers:    &[]operator.FleetWorker{{Name: "host:1", Started: 1, Concurrency: 4, Running: 1}},
			Schedulers: &[]operator.FleetScheduler{{Name: "host:2", Started: 1}},
		}, nil
	})
	handle("PUT /_lethe/v1/fleet/{kind}", "", func(r *http.Request, body []byte) (any, error) {
		var asked struct {
			RowsPerSecond *int `json:"rows_per_second"`
			Jobs          *int `json:"jobs"`
		}
		if err := strict(body, &asked); err != nil {
			return nil, err
		}
		return operator.Limit{Kind: r.PathValue("kind"), RowsPerSecond: asked.RowsPerSecond, Jobs: asked.Jobs}, nil
	})
	handle("GET /_lethe/v1/pauses", "", func(*http.Request, []byte) (any, error) {
		return operator.Pauses{Pauses: []operator.Pause{{Scope: "room", Value: "!a:x", Who: "@a:x", Reason: hostile, Set: 1}}}, nil
	})
	pause := func(r *http.Request, body []byte) (any, error) {
		var asked operator.VerbRequest
		if len(body) > 0 {
			if err := strict(body, &asked); err != nil {
				return nil, err
			}
		}
		return operator.Pause{Scope: r.PathValue("scope"), Value: r.PathValue("value"), Reason: asked.Reason, Until: asked.Until}, nil
	}
	handle("PUT /_lethe/v1/pauses/{scope}/{value}", "", pause)
	handle("DELETE /_lethe/v1/pauses/{scope}/{value}", "", pause)
	handle("GET /_lethe/v1/holds", "released", func(*http.Request, []byte) (any, error) {
		holds := operator.Holds{Holds: []operator.Hold{}}
		for _, hold := range s.held {
			holds.Holds = append(holds.Holds, hold)
		}
		return holds, nil
	})
	handle("PUT /_lethe/v1/holds/{room}", "", func(r *http.Request, body []byte) (any, error) {
		var asked struct {
			Reason string `json:"reason"`
		}
		if err := strict(body, &asked); err != nil {
			return nil, err
		}
		room := r.PathValue("room")
		if hold, ok := s.held[room]; ok && hold.Reason != asked.Reason {
			return nil, wire.New(http.StatusConflict, "M_UNKNOWN", "The room is held for another reason: "+hold.Reason)
		}
		s.held[room] = operator.Hold{Room: room, Reason: asked.Reason, PlacedBy: "@admin:x", PlacedAt: 1_700_000_000_000}
		return s.held[room], nil
	})
	handle("DELETE /_lethe/v1/holds/{room}", "", func(r *http.Request, _ []byte) (any, error) {
		hold, ok := s.held[r.PathValue("room")]
		if !ok {
			return nil, wire.NotFound("The room is not held")
		}
		delete(s.held, hold.Room)
		hold.ReleasedAt, hold.ReleasedBy = 1_700_000_001_000, "@admin:x"
		return hold, nil
	})
	events := func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.streams++
		n, answer := s.streams, s.stream
		s.mu.Unlock()
		if answer == nil { // no stream: the looks must do
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		answer(w, n, r.Header.Get("Last-Event-ID"))
	}
	mux.HandleFunc("GET /_lethe/v1/events", events)
	mux.HandleFunc("GET /_lethe/v1/jobs/{id}/events", events)
	return mux
}

// A result is how a command has ended.
type result struct {
	status         int
	stdout, stderr string
}

// lethe runs the command on the API over the network.
func (s *apiServer) lethe(args ...string) result {
	s.t.Helper()
	return lethe(s.t, []string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN=" + testToken}, nil, args...)
}

// lethe runs the command in an environment.
func lethe(t *testing.T, environ []string, local LocalAPI, args ...string) result {
	t.Helper()
	return letheUntil(t.Context(), environ, local, args...)
}

func letheUntil(ctx context.Context, environ []string, local LocalAPI, args ...string) result {
	root := New(environ, local)
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	status := command.Run(ctx, root, joined(args), oldFlags)
	return result{status, stdout.String(), stderr.String()}
}

// inProcess is the LocalAPI of a test: the same handler without a token.
func (s *apiServer) inProcess(opened *[]string) LocalAPI {
	return func(_ context.Context, settings config.Config, who string) (http.Handler, func(), error) {
		*opened = append(*opened, who+" on "+string(settings.Database.URL))
		return s.handler(), func() { *opened = append(*opened, "closed") }, nil
	}
}

// document decodes the only document on stdout.
func (r result) document(t *testing.T) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	var document map[string]any
	require.NoError(t, decoder.Decode(&document), "%s%s", r.stdout, r.stderr)
	_, err := decoder.Token()
	require.ErrorIs(t, err, io.EOF, "more than one document: %s", r.stdout)
	return document
}

// requireSafe requires that nothing but texts and line feeds go to a terminal.
func (r result) requireSafe(t *testing.T) {
	t.Helper()
	for _, r := range r.stdout + r.stderr {
		require.False(t, r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e), "%q", r)
	}
}

// encodeLine returns a value as JSON in one line.
func encodeLine(value any) (string, error) {
	text, err := json.Marshal(value)
	return string(text), err
}

// A request that the API calls malformed is wrong usage, and other refusals are not.
func TestExitStatusOfRefusals(t *testing.T) {
	t.Parallel()
	for status, refusals := range map[int][]*wire.Error{
		command.BadUsage: {wire.InvalidParam("x"), wire.MissingParam("x"), wire.BadJSON("x")},
		command.Failed:   {wire.BadRequest("Event is for wrong room."), wire.NotFound("x"), wire.New(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "x")},
		command.Refused:  {wire.Forbidden("x"), wire.New(http.StatusConflict, "M_UNKNOWN", "x")},
		command.TimedOut: {wire.New(http.StatusGatewayTimeout, "M_UNKNOWN", "x"), wire.New(http.StatusRequestTimeout, "M_UNKNOWN", "x")},
	} {
		for _, refusal := range refusals {
			require.Equal(t, status, command.Status(explain(refusal)), refusal)
		}
	}
}
