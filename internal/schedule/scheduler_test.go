package schedule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

// A town is a database and a Redis whose schedulers go by a clock that the test sets.
type town struct {
	*storetest.Lab
	server  *devstack.Redis
	redis   redis.UniversalClient
	asynq   *asynq.Inspector
	metrics *observe.Metrics
	log     *slog.Logger
	logged  *lockedBuffer
	mu      sync.Mutex
	now     time.Time
}

// A lockedBuffer is written to by several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// take returns what was written since the last call.
func (b *lockedBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.Reset()
	return b.String()
}

// midnight is the time on the clock of a new town.
const midnight = "2026-03-01T00:00:00Z"

func setupTown(t *testing.T) *town {
	t.Helper()
	server := devstacktest.Redis(t)
	client, err := redisdb.Open(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	town := &town{
		Lab: storetest.New(t, schema.Scheduler), server: server, redis: client, asynq: asynq.NewInspectorFromRedisClient(client),
		metrics: observe.NewMetrics(observe.NewRegistry()), logged: &lockedBuffer{},
	}
	town.log = slog.New(slog.NewTextHandler(town.logged, nil))
	town.at(midnight)
	return town
}

// at sets the clock.
func (o *town) at(now string) {
	o.T.Helper()
	parsed, err := time.Parse(time.RFC3339, now)
	require.NoError(o.T, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = parsed
}

func (o *town) time(context.Context) (time.Time, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now, nil
}

// every is a job of retention that is due each interval.
func every(t *testing.T, name string, interval time.Duration) retention.Job {
	t.Helper()
	schedule, err := retention.Every(interval.Milliseconds())
	require.NoError(t, err)
	return retention.Job{Name: name, Schedule: schedule}
}

// replica is a scheduler that has just been started.
func (o *town) replica(jobs ...retention.Job) *Scheduler {
	return New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{
		Rules: retention.Config{Enabled: true, Jobs: jobs}, Now: o.time,
	})
}

// look has a replica look, and returns what it says of when to look again.
func (o *town) look(s *Scheduler) time.Duration {
	o.T.Helper()
	wait, err := s.Look(o.Ctx)
	require.NoError(o.T, err)
	return wait
}

func (o *town) once(s *Scheduler, name string) []string {
	o.T.Helper()
	sweeps, err := s.Once(o.Ctx, name)
	require.NoError(o.T, err)
	return sweeps
}

// sweeps are the ticks of a job that have a sweep.
func (o *town) sweeps(job string) []string {
	o.T.Helper()
	return storetest.All[string](o.Lab, `
		SELECT parameters->>'tick' FROM lethe.jobs
		WHERE kind = 'retention_sweep' AND requester = 'retention' AND room_id = '' AND parameters->>'job' = $1
		ORDER BY 1`, job)
}

// end plays the worker: it ends the sweeps that there are.
func (o *town) end() {
	o.T.Helper()
	o.Exec(`
		UPDATE lethe.jobs SET state = 'complete', heartbeat_at = NULL, ended_at = now()
		WHERE kind = 'retention_sweep' AND ended_at IS NULL`)
}

// enqueued are the ids of the tasks that wait in any of asynq's queues.
func (o *town) enqueued() []string {
	o.T.Helper()
	ids := []string{}
	for _, queue := range jobs.Queues() {
		tasks, err := o.asynq.ListPendingTasks(string(queue), asynq.PageSize(1000))
		if !errors.Is(err, asynq.ErrQueueNotFound) {
			require.NoError(o.T, err)
		}
		for _, task := range tasks {
			ids = append(ids, task.ID)
		}
	}
	return ids
}

func TestJobIsRunAtItsTicks(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	daily := every(t, "daily", 24*time.Hour)
	s := o.replica(daily)
	o.at("2026-03-01T11:00:00Z")
	require.Equal(t, scheduleEvery, o.look(s))
	o.at("2026-03-01T23:59:59Z")
	require.Equal(t, time.Second, o.look(s))
	require.Empty(t, o.sweeps("daily"), "new jobs wait for their next tick")
	o.at("2026-03-02T00:00:00Z")
	require.Equal(t, scheduleEvery, o.look(s))
	for range 3 {
		o.look(s)
		o.look(o.replica(daily))
	}
	require.Equal(t, []string{"2026-03-02T00:00:00Z"}, o.sweeps("daily"))
	id := storetest.All[string](o.Lab, `SELECT id FROM lethe.jobs`)[0]
	job := o.Job(id)
	require.JSONEq(t, `{"job": "daily", "tick": "2026-03-02T00:00:00Z"}`, string(job.Parameters))
	job.Parameters = nil
	require.Equal(t, journal.Job{ID: id, Kind: "retention_sweep", Requester: "retention", State: journal.Queued, Generation: 1}, job)
	require.Equal(t, []string{id + "~1"}, o.enqueued())
	o.end()

	// It was down when the job was due, and then for a year.
	for _, now := range []string{"2026-03-03T07:00:00Z", "2027-03-03T07:00:00Z"} {
		o.at(now)
		for range 2 {
			o.look(o.replica(daily))
		}
		o.end()
	}
	require.Equal(t, []string{"2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", "2027-03-03T00:00:00Z"}, o.sweeps("daily"))
}

func TestJobThatComesBackRunsOnce(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	daily, other := every(t, "daily", 24*time.Hour), every(t, "other", time.Hour)
	o.look(o.replica(daily))
	o.at("2026-03-02T00:00:00Z")
	o.look(o.replica(daily))
	o.end()
	rows := func() []string {
		return storetest.All[string](o.Lab, `SELECT to_jsonb(s)::text FROM lethe.schedules s WHERE job = 'daily'`)
	}
	before := rows()
	o.at("2027-03-02T10:00:00Z")
	o.look(o.replica(other))
	require.Equal(t, before, rows())
	o.look(o.replica(other, daily))
	o.look(o.replica(other, daily))
	require.Equal(t, []string{"2026-03-02T00:00:00Z", "2027-03-02T00:00:00Z"}, o.sweeps("daily"))
	require.Empty(t, o.sweeps("other"))
}

func TestJobsScheduleChanges(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	rows := func() string {
		return storetest.All[string](o.Lab, `
			SELECT concat_ws(' ', to_char(last_tick AT TIME ZONE 'UTC', 'DD HH24'), outcome, to_char(next_tick AT TIME ZONE 'UTC', 'DD HH24'))
			FROM lethe.schedules WHERE job = 'all'`)[0]
	}
	o.look(o.replica(every(t, "all", time.Hour)))
	require.Equal(t, "01 00 noted 01 01", rows())
	o.look(o.replica(every(t, "all", 24*time.Hour)))
	require.Equal(t, "01 00 noted 02 00", rows())
	o.at("2026-03-01T07:30:00Z")
	o.look(o.replica(every(t, "all", time.Hour)))
	require.Equal(t, "01 07 accepted 01 08", rows(), "by its new schedule it is due")
	o.look(o.replica(every(t, "all", 24*time.Hour)))
	require.Equal(t, "01 07 accepted 02 00", rows())
	require.Len(t, o.sweeps("all"), 1)
}

func TestTickIsSkippedWhileItsJobRuns(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	s := o.replica(every(t, "hourly", time.Hour), every(t, "other", time.Hour))
	o.once(s, "hourly")
	o.look(s)
	o.logged.take()
	for hour := 1; hour < 4; hour++ {
		o.at(fmt.Sprintf("2026-03-01T%02d:00:00Z", hour))
		o.look(s)
		o.look(s)
	}
	logged := o.logged.take()
	require.Equal(t, 3, strings.Count(logged, `"tick skipped: the sweep before has not ended" schedule=hourly`), logged)
	require.Equal(t, 2, strings.Count(logged, `"tick skipped: the sweep before has not ended" schedule=other`), logged)
	require.Equal(t, []string{"2026-03-01T00:00:00Z"}, o.sweeps("hourly"))
	require.Equal(t, []int64{3}, storetest.All[int64](o.Lab, `SELECT skipped FROM lethe.schedules WHERE job = 'hourly'`))
	o.end()
	o.look(s)
	require.Len(t, o.sweeps("hourly"), 1, "a tick that was skipped is not made up for")
	o.at("2026-03-01T04:00:00Z")
	o.look(s)
	require.Equal(t, []string{"2026-03-01T00:00:00Z", "2026-03-01T04:00:00Z"}, o.sweeps("hourly"))
}

func TestClockThatIsSet(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	s := o.replica(every(t, "hourly", time.Hour))
	look := func(now string) (logged string) {
		t.Helper()
		o.at(now)
		for range 2 {
			wait := o.look(s)
			require.GreaterOrEqual(t, wait, minSchedule)
			require.LessOrEqual(t, wait, scheduleEvery)
		}
		o.end()
		return o.logged.take()
	}
	const setBack = "in the future, and is set back"
	look("2026-03-01T00:10:00Z")
	look("2026-03-01T01:00:00Z")
	want := []string{"2026-03-01T01:00:00Z"}
	require.Equal(t, want, o.sweeps("hourly"))

	// Back by a little, as after a failover: what was done counts.
	require.NotContains(t, look("2026-03-01T00:59:30Z"), setBack)
	look("2026-03-01T01:00:00Z")
	require.Equal(t, want, o.sweeps("hourly"))

	// Forward by 70 years and back again.
	look("2096-03-01T12:30:00Z")
	want = append(want, "2096-03-01T12:00:00Z")
	require.Equal(t, want, o.sweeps("hourly"))
	logged := look("2026-03-01T01:20:00Z")
	require.Equal(t, 1, strings.Count(logged, setBack), logged)
	require.Contains(t, logged, "level=WARN")
	require.Equal(t, want, o.sweeps("hourly"), "the tick has its sweep")
	require.NotContains(t, look("2026-03-01T02:00:00Z"), setBack)
	want = slices.Insert(want, 1, "2026-03-01T02:00:00Z")
	require.Equal(t, want, o.sweeps("hourly"))

	// Back by a day, to ticks that nobody has taken.
	require.Contains(t, look("2026-02-28T02:00:00Z"), setBack)
	want = slices.Insert(want, 0, "2026-02-28T02:00:00Z")
	require.Equal(t, want, o.sweeps("hourly"))

	// Then as if nothing had been.
	look("2026-03-01T02:00:00Z")
	require.Equal(t, want, o.sweeps("hourly"))
}

// TestReplicaThatWasStopped has a replica stop after it has read the rows and the
// clock, and go on hours later.
func TestReplicaThatWasStopped(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	for _, name := range []string{"looking", "once"} {
		o.at(midnight)
		hourly := every(t, name, time.Hour)
		o.look(o.replica(hourly))
		o.at("2026-03-01T01:00:00Z")
		stopped := New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{
			Rules: retention.Config{Enabled: true, Jobs: []retention.Job{hourly}},
			Now: func(ctx context.Context) (time.Time, error) {
				read, err := o.time(ctx)
				for _, later := range []string{"2026-03-01T04:00:00Z", "2026-03-01T05:00:00Z"} {
					o.at(later)
					o.look(o.replica(hourly))
					o.end()
				}
				return read, err
			},
		})
		if name == "looking" {
			o.look(stopped)
		} else {
			last := o.once(stopped, "")
			require.Equal(t, storetest.All[string](o.Lab, `SELECT id FROM lethe.jobs WHERE parameters @> '{"job": "once", "tick": "2026-03-01T05:00:00Z"}'`), last)
		}
		require.Equal(t, []string{"2026-03-01T04:00:00Z", "2026-03-01T05:00:00Z"}, o.sweeps(name))
	}
	require.NotContains(t, o.logged.take(), "is set back")
}

// TestRowThatLies gives rows of times that no clock has shown.
func TestRowThatLies(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	daily := every(t, "daily", 24*time.Hour)
	o.look(o.replica(daily))
	for i, tick := range []string{"4713-01-02 BC", "0001-01-01", "0001-01-01 00:00:00+00", "294275-01-01", "9999-12-31 23:59:59"} {
		o.Exec(`UPDATE lethe.schedules SET last_tick = $1::text::timestamptz, next_tick = $1::text::timestamptz, sweep_id = 'aaaaaaaaaaaaaaaa'`, tick)
		o.at(fmt.Sprintf("2026-03-%02dT00:30:00Z", i+2))
		o.look(o.replica(daily))
		require.Len(t, o.sweeps("daily"), i+1)
		require.Equal(t, []bool{true}, storetest.All[bool](o.Lab, `
			SELECT next_tick - last_tick = interval '1 day' AND sweep_id <> 'aaaaaaaaaaaaaaaa' FROM lethe.schedules`))
		o.end()
	}
}

func TestSchedulesClocksMustAgree(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	rules := retention.Config{Enabled: true, Jobs: []retention.Job{every(t, "daily", 24*time.Hour)}}
	o.look(New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{Rules: rules}))
	o.Exec(`UPDATE lethe.schedules SET last_tick = last_tick - interval '1 year'`)
	s := New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{Rules: rules})
	s.wall = func() time.Time { return time.Now().Add(-6 * time.Minute) }
	_, err := s.Look(o.Ctx)
	require.ErrorContains(t, err, "the database's clock is 6m0s ahead of this machine's")
	_, err = s.Once(o.Ctx, "")
	require.ErrorContains(t, err, "the database's clock is")
	require.Empty(t, o.sweeps("daily"))
}

func TestNothingIsScheduledUnlessRetentionIsEnabled(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	for _, rules := range []retention.Config{
		{Jobs: []retention.Job{every(t, "daily", 24*time.Hour)}}, {Enabled: true}, {},
	} {
		s := New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{Rules: rules, Now: o.time})
		s.Run(o.Ctx)
		o.look(s)
		require.Empty(t, o.once(s, ""))
		require.Contains(t, o.logged.take(), "retention is not enabled")
	}
	require.Empty(t, storetest.All[string](o.Lab, `SELECT job FROM lethe.schedules`))
	require.Empty(t, storetest.All[string](o.Lab, `SELECT id FROM lethe.jobs`))
}

func TestSweepIsAcceptedWithoutRedis(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	s := o.replica(every(t, "hourly", time.Hour), every(t, "other", time.Hour))
	o.look(s)
	o.server.Kill()
	o.at("2026-03-01T01:00:00Z")
	started := time.Now()
	o.look(s)
	o.look(s)
	require.Less(t, time.Since(started), 20*time.Second)
	ids := storetest.All[string](o.Lab, `SELECT id FROM lethe.jobs WHERE task_missing_since = '-infinity'`)
	require.Len(t, ids, 2)
	require.ElementsMatch(t, ids, o.once(s, ""))

	require.NoError(t, o.server.Restart(o.Ctx))
	o.reconcile()
	require.ElementsMatch(t, []string{ids[0] + "~1", ids[1] + "~1"}, o.enqueued(), "at once, and under the generation that they have")
	require.Len(t, o.sweeps("hourly"), 1)
	require.Len(t, o.sweeps("other"), 1)
}

// TestTicksThroughKills drives three replicas through fifty ticks, and kills one of
// them at each, wherever it is.
func TestTicksThroughKills(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	minutely := every(t, "minutely", time.Minute)
	const ticks = 50
	var want []string
	replicas := []*Scheduler{o.replica(minutely), o.replica(minutely), o.replica(minutely)}
	o.look(replicas[0])
	killed := 0
	for tick := range ticks {
		now := fmt.Sprintf("2026-03-01T00:%02d:00Z", tick+1)
		want = append(want, now)
		o.at(now)
		unlucky := rand.IntN(len(replicas))
		var group errgroup.Group
		for i, replica := range replicas {
			group.Go(func() error {
				if i != unlucky {
					_, err := replica.Look(o.Ctx)
					return err
				}
				ctx, kill := context.WithTimeout(o.Ctx, time.Duration(rand.IntN(20_000))*time.Microsecond)
				defer kill()
				if _, err := replica.Look(ctx); err != nil {
					killed++
				}
				return nil
			})
		}
		require.NoError(t, group.Wait())
		replicas[unlucky] = o.replica(minutely)
		require.Equal(t, want, o.sweeps("minutely"))
		o.end()
	}
	require.Positive(t, killed)
	t.Logf("%d of %d looks were cut short", killed, ticks)
	// Whatever a dead replica left is enqueued, and no job twice.
	o.Exec(`UPDATE lethe.jobs SET state = 'queued', ended_at = NULL`)
	o.reconcile()
	ids := storetest.All[string](o.Lab, `SELECT id || '~1' FROM lethe.jobs`)
	require.Len(t, ids, ticks)
	require.ElementsMatch(t, ids, o.enqueued())
}

// TestOnceBesideSchedulers has CronJobs and schedulers come to the same ticks.
func TestOnceBesideSchedulers(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	hourly := every(t, "hourly", time.Hour)
	for hour := range 5 {
		o.at(fmt.Sprintf("2026-03-01T%02d:00:00Z", hour))
		var mu sync.Mutex
		told := map[string]int{}
		var group errgroup.Group
		for i := range 8 {
			group.Go(func() error {
				if i%2 == 0 {
					_, err := o.replica(hourly).Look(o.Ctx)
					return err
				}
				sweeps, err := o.replica(hourly).Once(o.Ctx, "hourly")
				mu.Lock()
				defer mu.Unlock()
				told[strings.Join(sweeps, " ")]++
				return err
			})
		}
		require.NoError(t, group.Wait())
		require.Len(t, o.sweeps("hourly"), hour+1)
		id := storetest.All[string](o.Lab, `SELECT id FROM lethe.jobs WHERE ended_at IS NULL`)[0]
		require.Equal(t, map[string]int{id: 4}, told, "each is told the sweep of this tick")
		o.end()
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	o.at("2026-03-01T05:30:00Z")
	s := o.replica(every(t, "hourly", time.Hour), every(t, "daily", 24*time.Hour))
	_, err := s.Once(o.Ctx, "weekly")
	require.ErrorIs(t, err, ErrNoSuchJob)
	require.ErrorContains(t, err, `"weekly"; there are: hourly, daily`)

	first := o.once(s, "daily") // new, but asked for
	require.Len(t, first, 1)
	require.Equal(t, []string{"2026-03-01T00:00:00Z"}, o.sweeps("daily"))
	require.Empty(t, o.sweeps("hourly"))
	require.Equal(t, []string{first[0] + "~1"}, o.enqueued())

	o.look(s) // notes the tick of the other
	both := o.once(s, "")
	require.Equal(t, []string{"2026-03-01T05:00:00Z"}, o.sweeps("hourly"))
	require.Equal(t, first[0], both[1])
	require.Equal(t, both, o.once(s, ""))

	// A sweep that has not ended is the one that stands for the next tick.
	o.at("2026-03-01T06:30:00Z")
	require.Equal(t, both, o.once(s, ""))
	require.Contains(t, o.logged.take(), "tick skipped")
	o.end()
	next := o.once(s, "hourly")
	require.Equal(t, []string{"2026-03-01T05:00:00Z", "2026-03-01T06:00:00Z"}, o.sweeps("hourly"))
	require.NotEqual(t, both[0], next[0])
	require.Equal(t, both[1:], o.once(s, "daily"))
	o.look(s)
	require.Len(t, o.sweeps("hourly"), 2)

	// What fails for one job is said, and does not keep the other from its tick.
	o.end()
	o.at("2026-03-02T00:00:00Z")
	o.Exec(`ALTER TABLE lethe.jobs ADD CHECK (parameters->>'job' <> 'hourly' OR parameters->>'tick' < '2026-03-02')`)
	sweeps, err := s.Once(o.Ctx, "")
	require.ErrorContains(t, err, `job "hourly": take a job's tick`)
	require.Len(t, sweeps, 1)
	_, err = s.Look(o.Ctx)
	require.ErrorContains(t, err, `job "hourly": take a job's tick`)
	require.Equal(t, []string{"2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"}, o.sweeps("daily"))
}

func TestOnceSaysThatTheSchemaDoesNotFit(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	o.Exec(`DELETE FROM lethe.migrations_lethe WHERE version_id = (SELECT max(version_id) FROM lethe.migrations_lethe)`)
	_, err := o.replica(every(t, "hourly", time.Hour)).Once(o.Ctx, "")
	require.ErrorIs(t, err, migrate.ErrSchema)
}

func TestAwaitTellsHowSweepsEnded(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	s := o.replica(every(t, "a", time.Hour), every(t, "b", time.Hour), every(t, "c", time.Hour))
	sweeps := o.once(s, "")
	require.Len(t, sweeps, 3)
	ctx, cancel := context.WithCancelCause(o.Ctx)
	cancel(errors.New("told to stop"))
	require.ErrorContains(t, s.Await(ctx, sweeps[:1]), "sweep "+sweeps[0]+" has not ended, and goes on: told to stop")

	result := make(chan error, 1)
	go func() { result <- s.Await(o.Ctx, sweeps) }()
	for i, id := range sweeps {
		select {
		case err := <-result:
			require.FailNow(t, "it did not wait", err)
		default:
		}
		state := []journal.State{journal.Complete, journal.Failed, journal.Cancelled}[i]
		o.Exec(`
			UPDATE lethe.jobs SET state = $2, error = CASE WHEN $2 = 'failed' THEN 'no room left' END, ended_at = now()
			WHERE id = $1`, id, string(state))
	}
	err := <-result
	require.ErrorContains(t, err, "sweep "+sweeps[1]+" failed: no room left")
	require.ErrorContains(t, err, "sweep "+sweeps[2]+" was cancelled")
	require.NotContains(t, err.Error(), sweeps[0])
	require.NoError(t, s.Await(o.Ctx, sweeps[:1]))
	require.NoError(t, s.Await(o.Ctx, nil))
	require.ErrorIs(t, s.Await(o.Ctx, []string{jobs.NewID()}), postgres.ErrNotFound)
}

// TestDatabaseRestartsDuringATick restarts it while a replica is in the middle of
// one.
func TestDatabaseRestartsDuringATick(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	server, err := devstack.StartPostgres(o.Ctx, devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	require.NoError(t, server.CreateDatabase(o.Ctx, "town", ""))
	require.NoError(t, migrate.UpEmbedded(o.Ctx, server.URL("town")))
	o.DB, err = postgres.Open(o.Ctx, server.URL("town"), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(o.DB.Close)
	connect := func() {
		o.Conn, err = pgx.Connect(o.Ctx, server.URL("town"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = o.Conn.Close(context.WithoutCancel(o.Ctx)) })
	}
	connect()
	hourly := every(t, "hourly", time.Hour)
	s := o.replica(hourly)
	o.look(s)
	o.end()
	for hour := 1; hour <= 2; hour++ {
		o.at(fmt.Sprintf("2026-03-01T%02d:00:00Z", hour))
		tx, err := o.Conn.Begin(o.Ctx)
		require.NoError(t, err)
		_, err = tx.Exec(o.Ctx, `LOCK TABLE lethe.jobs`)
		require.NoError(t, err)
		var group errgroup.Group
		group.Go(func() error {
			if hour == 1 {
				_, err := s.Look(o.Ctx)
				return err
			}
			_, err := s.Once(o.Ctx, "")
			return err
		})
		require.Eventually(t, func() bool {
			var waits bool
			err := tx.QueryRow(o.Ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()))`).Scan(&waits)
			return err == nil && waits
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, server.Restart(o.Ctx))
		connect()
		if err := group.Wait(); hour == 1 {
			require.Error(t, err)
			require.Empty(t, o.sweeps("hourly"))
			o.look(s)
		} else {
			require.NoError(t, err, "it waits for the database")
		}
		require.Len(t, o.sweeps("hourly"), hour)
		require.Len(t, o.enqueued(), hour)
		o.end()
	}
}

// TestSchedulerRunsByTheDatabasesClock is the only one that waits for ticks.
func TestSchedulerRunsByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	ctx, cancel := context.WithCancel(o.Ctx)
	rules := retention.Config{Enabled: true, Jobs: []retention.Job{every(t, "each", time.Second)}}
	var group sync.WaitGroup
	for range 2 {
		s := New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{Rules: rules})
		group.Go(func() { s.Run(ctx) })
	}
	require.Eventually(t, func() bool {
		o.end()
		return len(o.sweeps("each")) >= 3
	}, time.Minute, 20*time.Millisecond)
	cancel()
	group.Wait()
	require.Equal(t, []bool{true}, storetest.All[bool](o.Lab, `
		SELECT bool_and((parameters->>'tick')::timestamptz BETWEEN created_at - interval '30 s' AND created_at + interval '1 s')
		FROM lethe.jobs`))
}

func TestSchedulersMetrics(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	registry := observe.NewRegistry()
	o.metrics = observe.NewMetrics(registry)
	metrics := observe.NewHealth(registry, o.log, nil).Metrics()
	s := o.replica(every(t, "hourly", time.Hour))
	shows := func(lines ...string) {
		t.Helper()
		response := httptest.NewRecorder()
		metrics.ServeHTTP(response, httptest.NewRequestWithContext(o.Ctx, http.MethodGet, "/metrics", http.NoBody))
		for _, line := range lines {
			require.Contains(t, strings.Split(response.Body.String(), "\n"), line)
		}
	}
	o.at("2026-03-01T00:30:00Z")
	o.look(s)
	shows(`lethe_schedule_last_tick_seconds{schedule="hourly"} 1.7723232e+09`, `lethe_schedule_next_tick_seconds{schedule="hourly"} 1.7723268e+09`,
		`lethe_schedule_lag_seconds{schedule="hourly"} 0`, `lethe_schedule_ticks_total{outcome="noted",schedule="hourly"} 1`)
	o.at("2026-03-01T01:00:10Z")
	o.Exec(`ALTER TABLE lethe.jobs RENAME TO hidden`)
	_, err := s.Look(o.Ctx)
	require.Error(t, err)
	shows(`lethe_schedule_lag_seconds{schedule="hourly"} 10`, `lethe_schedule_next_tick_seconds{schedule="hourly"} 1.7723268e+09`)
	o.Exec(`ALTER TABLE lethe.hidden RENAME TO jobs`)
	o.look(s)
	shows(`lethe_schedule_lag_seconds{schedule="hourly"} 0`, `lethe_schedule_last_tick_seconds{schedule="hourly"} 1.7723268e+09`,
		`lethe_schedule_ticks_total{outcome="accepted",schedule="hourly"} 1`)
	o.at("2026-03-01T02:00:10Z")
	o.look(s)
	shows(`lethe_schedule_ticks_total{outcome="skipped",schedule="hourly"} 1`)
}

// Its ticks are retention's, whether or not retention is enabled.
func TestAbandonedRoomsHaveASchedule(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	const day = 24 * time.Hour
	rules := retention.Config{Abandoned: retention.Abandoned{
		Enabled: true, After: 30 * day.Milliseconds(), CoolOff: day.Milliseconds(), MaxPerRun: 100,
	}}
	rules.Jobs = []retention.Job{retention.Everything()}
	scheduler := New(o.DB, tasks.NewClient(o.DB, o.redis, nil, o.log), o.log, o.metrics, Options{
		Rules: rules, Now: func(context.Context) (time.Time, error) { return time.Date(2026, 3, 5, 6, 0, 0, 0, time.UTC), nil },
	})
	ids, err := scheduler.Once(o.Ctx, "")
	require.NoError(t, err)
	require.Len(t, ids, 1)
	again, err := scheduler.Once(o.Ctx, retention.AbandonedJob)
	require.NoError(t, err)
	require.Equal(t, ids, again)
	job := o.Job(ids[0])
	require.Equal(t, jobs.AbandonedSweep, job.Kind)
	require.JSONEq(t, `{"job": "abandoned-rooms", "tick": "2026-03-05T00:00:00Z"}`, string(job.Parameters))
	none, err := scheduler.Once(o.Ctx, rules.Jobs[0].Name)
	require.NoError(t, err)
	require.Empty(t, none, "retention is not enabled")
	_, err = scheduler.Once(o.Ctx, "soup")
	require.ErrorIs(t, err, ErrNoSuchJob)

	o.Exec(`INSERT INTO rooms (room_id, creator, room_version) VALUES ('!r:x', '@zoe:hash.org', '10')`)
	o.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender, received_ts)
		VALUES ('$left', '!r:x', 'm.room.member', 1, 1, 1, true, false, '@u:x', extract(epoch FROM now() - interval '40 days') * 1000)`)
	o.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ('!r:x', '@u:x', '$left', 'leave')`)
	o.work(tasks.WorkerOptions{SweepRooms: 2, Retention: rules})
	require.NoError(t, scheduler.Await(o.Ctx, ids))
	var cooling int
	require.NoError(t, o.Conn.QueryRow(o.Ctx, `
		SELECT (checkpoint #>> '{sweep,skipped,cooling_off}')::int FROM lethe.jobs WHERE id = $1`, ids[0]).Scan(&cooling))
	require.Equal(t, 1, cooling)
}

// work runs a worker until the test has ended.
func (o *town) work(options tasks.WorkerOptions) {
	o.T.Helper()
	options.ServerName = storetest.ServerName
	ctx, cancel := context.WithCancel(o.Ctx)
	locks, err := redisdb.OpenForLocks(o.server.URL())
	require.NoError(o.T, err)
	db := storetest.OnAs(o.T, o.URL, schema.Worker).DB
	worker := tasks.NewWorker(tasks.Services{
		DB: db, Redis: o.redis, Locks: []redis.UniversalClient{locks},
		Board: jobs.NewBoard(db, o.redis, time.Hour, o.log), Log: o.log, Metrics: o.metrics,
	}, options)
	var group errgroup.Group
	group.Go(func() error { return worker.Run(ctx) })
	o.T.Cleanup(func() {
		cancel()
		require.NoError(o.T, group.Wait())
		_ = locks.Close()
	})
}

// reconcile has a reconciler look once.
func (o *town) reconcile() {
	o.T.Helper()
	board := jobs.NewBoard(o.DB, o.redis, time.Hour, o.log)
	require.NoError(o.T, dispatch.NewReconciler(o.DB, o.redis, board, o.log, o.metrics).Check(o.Ctx))
}

func TestSweepWithAGraceWaits(t *testing.T) {
	t.Parallel()
	town := setupTown(t)
	s := New(town.DB, tasks.NewClient(town.DB, town.redis, nil, town.log), town.log, town.metrics, Options{
		Grace: time.Hour, Rules: retention.Config{Enabled: true, Jobs: []retention.Job{every(t, "all", time.Minute)}}, Now: town.time,
	})
	town.look(s) // the job is new
	town.at("2026-03-01T00:01:30Z")
	town.look(s)
	require.Equal(t, []string{"scheduled"}, storetest.All[string](town.Lab, `
		SELECT state FROM lethe.jobs WHERE due_at BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour' AND task_missing_since IS NULL`))
	town.at("2026-03-01T00:02:30Z")
	town.look(s)
	require.Equal(t, 1, storetest.One[int](town.Lab, `SELECT count(*) FROM lethe.jobs`), "the next tick is skipped meanwhile")
}
