package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
)

// A steered job is one that operators disturb.
type steered struct {
	room, id string
	deletes  bool
	events   int // of the room, before
	done     int // verbs that the api has accepted
}

// Operators disturb jobs at random while workers are killed: they cancel, pause, resume,
// retry and move them, and hold and release rooms. Afterwards each room is in the state
// that its job's record says. LETHE_TEST_VERBS_TIME is how long they do so, LETHE_TEST_SEED
// what they do.
func TestVerbsAtRandom(t *testing.T) {
	t.Parallel()
	long, err := time.ParseDuration(cmp.Or(os.Getenv("LETHE_TEST_VERBS_TIME"), "5s"))
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("LETHE_TEST_SEED"); given != "" {
		_, err := fmt.Sscan(given, &seed)
		require.NoError(t, err)
	}
	t.Logf("LETHE_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	f := newFleet(t, devstacktest.Database(t, "e2e-10", populate(10)), server, token)
	var jobs []*steered
	for i := range 20 {
		j := &steered{room: fmt.Sprintf("!steered%d:%s", i, server), deletes: i%3 == 2, events: 150}
		_, err := roomgen.Generate(t.Context(), f.sql, roomgen.Room{ID: j.room, Server: server, Events: j.events, Seed: uint64(i)})
		require.NoError(t, err)
		j.events = query[int](f, `SELECT count(*) FROM events WHERE room_id = $1`, j.room)
		jobs = append(jobs, j)
	}
	f.lengthenBatches()
	f.start("scheduler")
	workers := []*process{f.start("worker", slowly), f.start("worker", slowly)}
	for _, j := range jobs {
		f.steer(j)
	}
	held := map[string]bool{}
	for end := time.Now().Add(long); time.Now().Before(end); {
		j := jobs[random.IntN(len(jobs))]
		switch random.IntN(10) {
		case 0:
			f.verb(j, "cancel", nil)
		case 1, 2:
			f.verb(j, "pause", map[string]any{"reason": "r", "until_ts": time.Now().Add(time.Duration(random.IntN(3000)+500) * time.Millisecond).UnixMilli()})
		case 3:
			f.verb(j, "resume", nil)
		case 4, 5:
			f.verb(j, "retry", nil)
		case 6:
			f.verb(j, "priority", map[string]any{"queue": []string{"critical", "default"}[random.IntN(2)]})
		case 7:
			status, answer := f.ask(http.MethodPut, "/_lethe/v1/holds/"+url.PathEscape(j.room), map[string]any{"reason": "case 7"})
			require.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, status, "%v", answer)
			held[j.room] = status == http.StatusOK
		case 8:
			status, answer := f.ask(http.MethodDelete, "/_lethe/v1/holds/"+url.PathEscape(j.room), nil)
			require.Contains(t, []int{http.StatusOK, http.StatusNotFound, http.StatusServiceUnavailable}, status, "%v", answer)
		case 9:
			i := random.IntN(len(workers))
			workers[i].kill()
			workers[i] = f.start("worker", slowly)
		}
	}
	for _, j := range jobs {
		f.eventually(time.Minute, func() bool {
			status, _ := f.ask(http.MethodDelete, "/_lethe/v1/holds/"+url.PathEscape(j.room), nil)
			return status != http.StatusServiceUnavailable
		}, "the hold of %s does not end", j.room)
		f.verb(j, "resume", nil)
	}
	for _, j := range jobs {
		f.eventually(2*time.Minute, func() bool { return f.job(j.id)["ended_ts"] != nil }, "job %s does not end", j.id)
		f.requireExplained(j)
	}
	require.Zero(t, query[int](f, `SELECT count(*) FROM lethe.pauses WHERE until IS NULL`))
}

// steer requests the job.
func (f *fleet) steer(j *steered) {
	f.t.Helper()
	path, body := "/_lethe/v1/deletes", map[string]any{"room_id": j.room, "force_purge": true}
	if !j.deletes {
		last := query[string](f, `SELECT event_id FROM events WHERE room_id = $1 ORDER BY topological_ordering DESC LIMIT 1`, j.room)
		path, body = "/_lethe/v1/purges", map[string]any{"room_id": j.room, "before_event_id": last, "delete_local_events": true}
	}
	status, answer := f.ask(http.MethodPost, path, body)
	require.Equal(f.t, http.StatusAccepted, status, "%v", answer)
	j.id = answer["id"].(string)
}

// verb does a verb to the job, or is refused.
func (f *fleet) verb(j *steered, verb string, body map[string]any) {
	f.t.Helper()
	if body == nil {
		body = map[string]any{}
	}
	status, answer := f.ask(http.MethodPost, "/_lethe/v1/jobs/"+j.id+"/"+verb, body)
	require.Contains(f.t, []int{http.StatusOK, http.StatusConflict}, status, "%s: %v", verb, answer)
	if status == http.StatusOK {
		j.done++
	}
}

// job returns the job as the API shows it.
func (f *fleet) job(id string) map[string]any {
	f.t.Helper()
	status, answer := f.ask(http.MethodGet, "/_lethe/v1/jobs/"+id, nil)
	require.Equal(f.t, http.StatusOK, status, "%v", answer)
	return answer
}

// requireExplained fails the test unless the room is as the job says.
func (f *fleet) requireExplained(j *steered) {
	f.t.Helper()
	job := f.job(j.id)
	left := query[int](f, `SELECT count(*) FROM events WHERE room_id = $1`, j.room)
	deleted, _ := job["deleted"].(map[string]any)["events"].(float64)
	require.EqualValues(f.t, j.events-left, deleted, "%v", job)
	require.EqualValues(f.t, deleted, job["events"], "%v", job)
	switch state := job["state"]; {
	case state == "complete" && j.deletes:
		require.Zero(f.t, left)
		require.Zero(f.t, query[int](f, `SELECT count(*) FROM rooms WHERE room_id = $1`, j.room))
	case state == "complete":
		require.Zero(f.t, f.planned(j.room, 1<<40), "%v", job)
	case state == "cancelled" && j.deletes:
		require.Equal(f.t, j.events, left, "a room that has vanished goes whole: %v", job)
	case state == "cancelled":
		if below := job["complete_below"]; below != nil {
			require.Zero(f.t, f.planned(j.room, int(below.(float64))), "%v", job)
		} else {
			require.Equal(f.t, j.events, left, "%v", job)
		}
	default:
		require.Fail(f.t, "a job has failed", "%v", job)
	}
	var verbs int
	log := job["log"].([]any)
	for _, entry := range log {
		if who, _ := entry.(map[string]any)["who"].(string); who != "" && entry.(map[string]any)["event"] != "queued" {
			verbs++
		}
	}
	require.Equal(f.t, j.done, verbs, "each verb is in the log: %v", log)
	require.Equal(f.t, job["state"], log[len(log)-1].(map[string]any)["event"])
}

// planned returns how many events a purge of the room up to the depth would delete.
func (f *fleet) planned(room string, depth int) int {
	f.t.Helper()
	end := query[string](f, `
		SELECT coalesce(
			(SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier AND topological_ordering >= $2
			 ORDER BY topological_ordering LIMIT 1),
			(SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier ORDER BY topological_ordering DESC LIMIT 1))`, room, depth)
	status, answer := f.ask(http.MethodPost, "/_lethe/v1/plans", map[string]any{
		"kind": "purge_history", "room_id": room, "before_event_id": end, "delete_local_events": true,
	})
	require.Equal(f.t, http.StatusOK, status, "%v", answer)
	return int(answer["events"].(float64))
}

// A limit that an operator sets slows a purge down that runs, within 5 s. Without the limit
// it goes on at its speed. At one event per second the purge would take most of an hour.
func TestLimitOfTheFleetSlowsAPurgeThatRuns(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 3000)
	f.lengthenBatches() // the purge must not be over before the limit is seen
	f.start("scheduler")
	f.start("worker", slowly)
	id := f.underway(purge)
	f.document(true, "fleet", "set", "purge_history", "--rows-per-second", "1")
	seen := time.Now().Add(5 * time.Second)
	f.eventually(10*time.Second, func() bool { return time.Now().After(seen) }, "no time goes by")
	_, err := f.sql.Exec(t.Context(), `DROP TRIGGER lengthen ON lethe.jobs`)
	require.NoError(t, err)
	const watched = 10 * time.Second
	started, left := time.Now(), f.left()
	require.Positive(t, left)
	f.eventually(2*watched, func() bool { return time.Since(started) > watched }, "no time goes by")
	took, slow := time.Since(started), f.left()
	// A batch of 10 may have been under way, and a second's worth is there at the beginning.
	require.LessOrEqual(t, left-slow, int(took.Seconds())+1+10)
	require.Nil(t, f.job(id)["ended_ts"])

	f.document(true, "fleet", "set", "purge_history", "--rows-per-second", "default")
	f.await(2*time.Minute, id)
	require.Zero(t, f.left())
}

// A purge that is at a hard limit of the brake waits, and says for what. lethe brake shows
// the worker that brakes, and the purge goes on when the limit is lifted.
func TestBrakeMakesJobsWait(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 1000)
	f.start("scheduler")
	f.start("worker", slowly)
	set := f.document(true, "brake", "set", "commit_seconds", "--soft", "none", "--hard", "0")
	require.Equal(t, map[string]any{"signal": "commit_seconds", "soft": nil, "hard": 0.0, "default": false}, only(set, "signal", "soft", "hard", "default"))
	brakes := func() bool {
		workers, _ := f.document(true, "brake", "show")["workers"].([]any)
		return len(workers) == 1 && workers[0].(map[string]any)["share"] == 0.0
	}
	f.eventually(20*time.Second, brakes, "no worker brakes")
	id := f.purge(large, purge)
	f.eventually(20*time.Second, func() bool {
		text, _ := f.job(id)["waits_for"].(string)
		return strings.HasPrefix(text, "brake: a commit took ")
	}, "the job does not wait for the brake")
	require.Positive(t, f.left())
	f.document(true, "brake", "reset", "commit_seconds")
	f.await(time.Minute, id)
	require.Zero(t, f.left())
}

// only returns some members of an object.
func only(object map[string]any, names ...string) map[string]any {
	some := map[string]any{}
	for _, name := range names {
		some[name] = object[name]
	}
	return some
}
