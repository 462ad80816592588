package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A sort says what the load does to a room.
type sort int

const (
	purged  sort = iota // purged again and again, up to a later event each time
	deleted             // deleted
	swept               // left to sweeps
)

// A room is one of a round, with what its pages may show.
type room struct {
	id     string
	sort   sort
	depths map[string]int64 // of the events that pages show at first
	at     map[int64]string // an event of each depth

	mu     sync.Mutex
	cut    int64 // no request purges this depth or a later one
	floor  int64 // everything below is purged, by a job that is complete
	asked  bool  // somebody has requested to delete it
	gone   bool  // a delete of it is complete
	holdAt bool  // somebody has requested to hold it
}

// A view is what was known of a room at a moment.
type view struct {
	cut, floor         int64
	asked, gone, holds bool
}

func (r *room) view() view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return view{r.cut, r.floor, r.asked, r.gone, r.holdAt}
}

func (r *room) set(change func(*room)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// requestTime bounds a request. None may take as long.
const requestTime = 30 * time.Second

// ask asks an api as the admin. The status is 0 if it does not answer.
func (w *world) ask(ctx context.Context, api *process, method, path string, body any) (status int, answer map[string]any) {
	address, asked := api.at(), time.Now()
	if address == "" {
		return 0, nil
	}
	var encoded []byte
	if body != nil {
		encoded, _ = json.Marshal(body)
	}
	bounded, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, method, "http://"+address+path, bytes.NewReader(encoded))
	if err != nil {
		w.report.violation("%s %s: %v", method, path, err)
		return 0, nil
	}
	request.Header.Set("Authorization", "Bearer "+token)
	var raw []byte
	response, err := w.client.Do(request)
	if err == nil {
		raw, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
	}
	if err != nil {
		if !api.disturbedSince(asked) && ctx.Err() == nil {
			w.report.violation("%s %s has no answer after %v: %v", method, path, time.Since(asked).Round(time.Millisecond), err)
		}
		return 0, nil
	}
	w.report.count(fmt.Sprintf("answers with status %d", response.StatusCode))
	err = json.Unmarshal(raw, &answer)
	switch {
	case response.StatusCode == http.StatusServiceUnavailable:
		if response.Header.Get("Retry-After") == "" {
			w.report.violation("%s %s: 503 without Retry-After: %s", method, path, raw)
		}
	case response.StatusCode >= http.StatusInternalServerError:
		w.report.violation("%s %s: %d %s", method, path, response.StatusCode, raw)
	case err != nil:
		w.report.violation("%s %s: %d is no JSON: %s", method, path, response.StatusCode, raw)
	}
	return response.StatusCode, answer
}

// expect records an answer that the request must not have. No answer and 503 may always be.
func (w *world) expect(what string, status int, answer map[string]any, allowed ...int) bool {
	if status != 0 && status < http.StatusInternalServerError && !slices.Contains(allowed, status) {
		w.report.violation("%s: %d %v", what, status, answer)
	}
	return status == http.StatusOK || status == http.StatusAccepted
}

// load requests jobs, steers them and holds rooms, until the context ends.
func (w *world) load(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		api := w.apis[random.IntN(len(w.apis))]
		r := w.rooms[random.IntN(len(w.rooms))]
		switch n := random.IntN(20); {
		case n < 9 && r.sort == purged:
			w.purge(ctx, api, r, 3+random.Int64N(8))
		case n < 2 && r.sort == deleted:
			w.delete(ctx, api, r)
		case n >= 9 && n < 13:
			w.steer(ctx, api, random, []string{"pause", "resume", "retry", "priority"}[n-9])
		case n == 13:
			w.steer(ctx, api, random, "cancel")
		case n == 14:
			w.hold(ctx, api, r)
		case n == 15:
			w.lift(ctx, api, r)
		}
		select {
		case <-time.After(time.Duration(40+random.IntN(160)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// purge requests a purge up to so many levels above the last one.
func (w *world) purge(ctx context.Context, api *process, r *room, levels int64) {
	var end string
	r.set(func(r *room) {
		if r.cut+levels > lastCut {
			return
		}
		if end = r.at[r.cut+levels]; end != "" {
			r.cut += levels
		}
	})
	if end == "" {
		return
	}
	status, answer := w.ask(ctx, api, http.MethodPost, "/_synapse/admin/v1/purge_history/"+url.PathEscape(r.id),
		map[string]any{"purge_up_to_event_id": end, "delete_local_events": true})
	allowed := []int{http.StatusOK}
	if r.view().holds {
		allowed = append(allowed, http.StatusForbidden)
	}
	if w.expect("purge of "+r.id, status, answer, allowed...) {
		w.accepted(answer["purge_id"])
	}
}

func (w *world) delete(ctx context.Context, api *process, r *room) {
	before := r.view()
	r.set(func(r *room) { r.asked = true })
	status, answer := w.ask(ctx, api, http.MethodDelete, "/_synapse/admin/v2/rooms/"+url.PathEscape(r.id), map[string]any{})
	allowed := []int{http.StatusOK}
	if before.asked {
		allowed = append(allowed, http.StatusBadRequest, http.StatusNotFound) // it is being deleted, or gone
	}
	if r.view().holds {
		allowed = append(allowed, http.StatusForbidden)
	}
	if w.expect("delete of "+r.id, status, answer, allowed...) {
		w.accepted(answer["delete_id"])
	}
}

func (w *world) hold(ctx context.Context, api *process, r *room) {
	r.set(func(r *room) { r.holdAt = true })
	status, answer := w.ask(ctx, api, http.MethodPut, "/_lethe/v1/holds/"+url.PathEscape(r.id), map[string]any{"reason": "case 7"})
	if w.expect("hold of "+r.id, status, answer, http.StatusOK) {
		w.report.count("holds")
	}
}

func (w *world) lift(ctx context.Context, api *process, r *room) (lifted bool) {
	status, answer := w.ask(ctx, api, http.MethodDelete, "/_lethe/v1/holds/"+url.PathEscape(r.id), nil)
	return w.expect("lift of "+r.id, status, answer, http.StatusOK, http.StatusNotFound) || status == http.StatusNotFound
}

// steer does a verb to a job that has not ended, or to one that was cancelled.
func (w *world) steer(ctx context.Context, api *process, random *rand.Rand, verb string) {
	id := w.anyJob(random, verb == "retry")
	if id == "" {
		return
	}
	body := map[string]any{}
	allowed := []int{http.StatusOK, http.StatusConflict}
	until := time.Now().Add(time.Duration(500+random.IntN(4000)) * time.Millisecond)
	switch verb {
	case "cancel":
		w.set(func() { w.cancels[id] = true })
	case "pause":
		body = map[string]any{"reason": "r", "until_ts": until.UnixMilli()}
	case "priority":
		body = map[string]any{"queue": []string{"critical", "default"}[random.IntN(2)]}
	}
	status, answer := w.ask(ctx, api, http.MethodPost, "/_lethe/v1/jobs/"+id+"/"+verb, body)
	if verb == "pause" && time.Now().After(until) {
		allowed = append(allowed, http.StatusBadRequest) // the api was stopped, and read it too late
	}
	if w.expect(verb+" of "+id, status, answer, allowed...) {
		w.report.count("verb " + verb)
	}
}

// anyJob returns the id of a job that is known to be open, or cancelled, "" without one. It
// is no purge of a sweep: if it was cancelled at its end, no sweep would come back to it.
func (w *world) anyJob(random *rand.Rand, cancelled bool) string {
	var ids []string
	w.set(func() {
		for id, state := range w.states {
			if w.steered[id] && cancelled == (state == "cancelled") && state != "complete" && state != "failed" {
				ids = append(ids, id)
			}
		}
	})
	if len(ids) == 0 {
		return ""
	}
	slices.Sort(ids)
	return ids[random.IntN(len(ids))]
}

func (w *world) accepted(id any) {
	text, _ := id.(string)
	if text == "" {
		w.report.violation("a job was accepted without an id")
		return
	}
	w.report.count("jobs accepted")
	w.set(func() { w.ids = append(w.ids, text) })
}

// read reads pages of random rooms until the context ends.
func (w *world) read(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		w.readRoom(ctx, w.apis[random.IntN(len(w.apis))], w.rooms[random.IntN(len(w.rooms))])
		select {
		case <-time.After(time.Duration(20+random.IntN(60)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// readRoom reads a room in one page, and reports whether there was an answer. The page must
// show what no request purges, and nothing that a job has purged which was complete before.
func (w *world) readRoom(ctx context.Context, api *process, r *room) bool {
	before := r.view()
	status, page := w.ask(ctx, api, http.MethodGet, "/_synapse/admin/v1/rooms/"+url.PathEscape(r.id)+"/messages?dir=b&limit=1000", nil)
	after := r.view()
	if after.asked && (status == http.StatusNotFound || status == http.StatusForbidden) {
		return true
	}
	if !w.expect("page of "+r.id, status, page, http.StatusOK) {
		return false
	}
	chunk, _ := page["chunk"].([]any)
	shown := map[string]bool{}
	for _, event := range chunk {
		id, _ := event.(map[string]any)["event_id"].(string)
		shown[id] = true
		depth, known := r.depths[id]
		switch {
		case before.gone:
			w.report.violation("a page of %s shows %s, and its delete was complete", r.id, id)
		case known && depth < before.floor:
			w.report.violation("a page of %s shows %s of depth %d, and a purge up to %d was complete", r.id, id, depth, before.floor)
		}
	}
	if after.asked {
		return true
	}
	for id, depth := range r.depths {
		if depth >= after.cut && !shown[id] {
			w.report.violation("a page of %s lacks %s of depth %d, and no purge goes beyond %d", r.id, id, depth, after.cut)
		}
	}
	w.report.count("pages compared")
	return true
}

// A row is a job's row.
type row struct {
	ID, Kind, Room, State, Error string
	Depth                        int64
}

const selectJobs = `
	SELECT id, kind, room_id, state, coalesce(error, ''),
	       coalesce(substring(parameters->>'token' FROM '^t(\d+)-')::bigint, 0)
	FROM lethe.jobs`

// watch follows the states of all jobs until the context ends.
func (w *world) watch(ctx context.Context) {
	for ctx.Err() == nil {
		_ = w.look(ctx) // the server may be away
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// look notes the states of all jobs. A job that is complete stays complete.
func (w *world) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	rows, err := w.db.own().Query(ctx, selectJobs)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return err
	}
	w.set(func() {
		seen := map[string]bool{}
		for _, job := range all {
			seen[job.ID] = true
			was := w.states[job.ID]
			if (was == "complete" || was == "failed") && job.State != was {
				w.report.violation("the job %s was %s and is %s", job.ID, was, job.State)
			}
			w.states[job.ID] = job.State
			w.steered[job.ID] = job.Kind == "retention_sweep" || w.byID[job.Room].sort != swept
			if r := w.byID[job.Room]; r != nil && job.State == "complete" {
				r.set(func(r *room) {
					r.floor = max(r.floor, job.Depth)
					r.gone = r.gone || job.Kind == "delete_room"
				})
			}
		}
		for id := range w.states {
			if !seen[id] {
				w.report.violation("the job %s is lost", id)
				delete(w.states, id)
			}
		}
	})
	return nil
}
