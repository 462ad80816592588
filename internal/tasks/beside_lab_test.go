package tasks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
	"lethe/internal/synapse"
)

// A besideLab is a lab on a database that Synapse could have made.
type besideLab struct {
	*lab
	recorder *besidetest.Recorder
}

// quickly is a delay of mappings that a test can wait for.
const quickly = 100 * time.Millisecond

func setupBeside(t *testing.T) *besideLab {
	t.Helper()
	l := &besideLab{lab: setupOn(t, besidetest.Database)}
	var through string
	l.recorder, through = besidetest.Record(t, l.URL)
	l.DB = storetest.OnAs(t, through, schema.Worker).DB
	return l
}

// homeserverRedis returns a client of the Redis that stands in for the homeserver's.
func (l *besideLab) homeserverRedis() redis.UniversalClient {
	l.T.Helper()
	client, err := redisdb.Open(l.server.URL())
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = client.Close() })
	return client
}

// beside runs a Synapse with the options, which looks anew each time, until the test has
// ended. Its publishes are recorded.
func (l *besideLab) beside(options synapse.Options) *synapse.Synapse {
	l.T.Helper()
	options.ServerName, options.Metrics, options.LookAge = "x", l.metrics, time.Nanosecond
	if options.Redis != nil {
		l.recorder.Publishes(options.Redis)
	}
	s := synapse.New(l.DB, options)
	require.NoError(l.T, s.Find(l.Ctx))
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	l.T.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// byStream runs a Synapse that is told through Redis, which has announced itself.
func (l *besideLab) byStream(pace time.Duration) *synapse.Synapse {
	l.T.Helper()
	s := l.beside(synapse.Options{Redis: l.homeserverRedis(), Pace: pace})
	l.soon(func() bool { return len(besidetest.Only(l.recorder.Done(), "PUBLISH POSITION")) > 0 })
	return s
}

// sweep sweeps mappings until the test has ended, as each worker's process does.
func (l *besideLab) sweep(s *synapse.Synapse) {
	l.T.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Sweep(ctx)
	}()
	l.T.Cleanup(func() {
		cancel()
		<-done
	})
}

// listen starts a process of a homeserver.
func (l *besideLab) listen(quiet bool) *besidetest.Listener {
	l.T.Helper()
	return besidetest.Listen(l.T, l.URL, l.homeserverRedis(), redisdb.HomeserverChannel("x"), quiet)
}

// soon waits until done reports true.
func (l *besideLab) soon(done func() bool, message ...any) {
	l.T.Helper()
	require.Eventually(l.T, done, time.Minute, 5*time.Millisecond, message...)
}

// requireWaits waits until the job's status says that it waits for the reason, and that
// is the one that is served.
func (l *besideLab) requireWaits(id, reason string) {
	l.T.Helper()
	kind := l.Job(id).Kind
	var status jobs.Status
	require.Eventually(l.T, func() bool {
		var err error
		status, err = l.board.Status(l.Ctx, kind, id)
		return err == nil && status.State == journal.Queued && strings.Contains(status.WaitsFor, reason)
	}, time.Minute, 10*time.Millisecond, "it does not wait for %q, but: %v", reason, &status)
	require.Zero(l.T, l.Job(id).Failures, "a wait is no failure")
}

// requireComplete waits for the end of the job, which must be complete.
func (l *besideLab) requireComplete(id string) {
	l.T.Helper()
	l.soon(func() bool { return l.Job(id).State.Ended() })
	job := l.Job(id)
	require.Equal(l.T, journal.Complete, job.State, job.Error)
}

// mapped is the number of mappings to state groups.
func (l *besideLab) mapped() int {
	l.T.Helper()
	return storetest.One[int](l.Lab, `SELECT count(*) FROM event_to_state_groups`)
}

// delayed is the number of batches whose mappings wait.
func (l *besideLab) delayed() int {
	l.T.Helper()
	return storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.delayed_mappings`)
}

// invalidated are the invalidations in their order.
func (l *besideLab) invalidated() []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `SELECT cache_func || ' ' || array_to_string(keys, ' ') FROM cache_invalidation_stream_by_instance ORDER BY stream_id`)
}

// pauseDeletes makes each batch that deletes an event wait for the function that it
// returns, which may be called once.
func (l *besideLab) pauseDeletes() (goOn func()) {
	l.T.Helper()
	l.WatchDeletes(`PERFORM pg_advisory_xact_lock_shared(7);`)
	l.Exec(`SELECT pg_advisory_lock(7)`)
	return func() { l.Exec(`SELECT pg_advisory_unlock(7)`) }
}

// pausedBatch waits until a batch waits for [besideLab.pauseDeletes].
func (l *besideLab) pausedBatch() {
	l.T.Helper()
	l.soon(func() bool {
		return storetest.One[int](l.Lab, `
			SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) -- other tests wait too`) > 0
	})
}

// The statements and messages whose order matters, by a part of their text.
const (
	ownLock    = "INSERT INTO lethe.room_fences"
	takeLock   = "lethe.lock_at_homeserver"
	beginBatch = "FROM lethe.room_fences WHERE room_id = $1 FOR SHARE"
	lockRoom   = "SELECT FROM rooms WHERE room_id = $1 FOR UPDATE"
	deleteRows = "DELETE FROM events"
	moveOn     = "SET checkpoint = $4, failures = 0"
	markTold   = "SET told = true WHERE room_id"
	lockStream = "pg_advisory_xact_lock(724001::bigint)"
	delayThem  = "INSERT INTO lethe.delayed_mappings"
	checkLock  = "SELECT count(*) FROM worker_read_write_locks WHERE lock_key"
	invalidate = "INSERT INTO cache_invalidation_stream_by_instance"
	commitRow  = "COMMIT after INSERT INTO cache_invalidation_stream_by_instance"
	commitLock = "COMMIT after SELECT count(*) FROM worker_read_write_locks WHERE lock_key"
	commitElse = "COMMIT after"
	tell       = "PUBLISH POSITION caches lethe"
	freeLock   = "DELETE FROM worker_read_write_locks"
)

func wake(name string) string {
	return fmt.Sprintf(`PUBLISH LOCK_RELEASED ["lethe",%q,%q]`, name, room)
}

// recorded are the statements and messages so far, in their order. A statement that is
// repeated at once is one.
func (l *besideLab) recorded() []string {
	done := besidetest.Only(l.recorder.Done(), commitRow, commitLock, commitElse, ownLock, takeLock, beginBatch, lockRoom, deleteRows, moveOn,
		markTold, lockStream, delayThem, checkLock, invalidate, tell, freeLock,
		wake("purge_pagination_lock"), wake("new_event_during_purge_lock"), "PUBLISH")
	return slices.Compact(slices.DeleteFunc(done, func(line string) bool { return line == commitElse }))
}
