package vacuum

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
	"lethe/internal/store/vacuum"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = storetest.Room

// A lab is a database with a room that a purge has emptied.
type lab struct {
	*storetest.Lab
	metrics *observe.Metrics

	url string // of a superuser's role
}

// events is the number of events of the room, and kept how many of them a purge leaves.
const (
	events = 6000
	kept   = 1000
)

func setup(t *testing.T) *lab {
	t.Helper()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	l := &lab{Lab: storetest.On(t, url), metrics: observe.NewMetrics(observe.NewRegistry()), url: url}
	l.Exec(`ALTER TABLE events SET (autovacuum_enabled = false)`)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		SELECT '$' || i, $1, 'm.room.message', i, i, i, true, false, '@zoe:far' FROM generate_series(1, $2::int) i`, room, events)
	l.Exec(`VACUUM (ANALYZE) events`)
	l.vacuumed(1)
	return l
}

// purged deletes all but some of the room's events, those with the highest depths or the
// lowest, and returns the job that has done it.
func (l *lab) purged(highestStay bool) (id string) {
	l.T.Helper()
	id = l.Queue(room)
	run := l.Claim(id)
	where := `topological_ordering <= $1`
	if !highestStay {
		where = `topological_ordering > $1`
	}
	boundary := events - kept
	if !highestStay {
		boundary = kept
	}
	l.Exec(`DELETE FROM events WHERE `+where, boundary)
	l.end(run, map[string]int64{"events": events - kept}, int64(events-kept)+1)
	return id
}

// end ends a job that has deleted the rows.
func (l *lab) end(run journal.Run, deleted map[string]int64, below int64) {
	l.T.Helper()
	require.NoError(l.T, l.Journal.CompleteJob(l.Ctx, run, map[string]int64{"complete_below": below, "batches": 1}))
	text, err := json.Marshal(deleted)
	require.NoError(l.T, err)
	l.Exec(`UPDATE lethe.jobs SET deleted = $2::text::jsonb WHERE id = $1`, run.JobID, string(text))
}

// vacuumer returns a Vacuumer that vacuums everything, as the superuser.
func (l *lab) vacuumer(change func(*Options)) *Vacuumer {
	options := Options{URL: l.url, Interval: 10 * time.Millisecond, SnapshotWait: time.Minute}
	if change != nil {
		change(&options)
	}
	return New(l.DB, slog.New(slog.DiscardHandler), l.metrics, options)
}

// runs runs the Vacuumer until stop is called, or the test has ended.
func (l *lab) runs(v *Vacuumer) (stop func()) {
	l.T.Helper()
	ctx, cancel := context.WithCancel(l.Ctx)
	var group sync.WaitGroup
	group.Go(func() { v.Run(ctx) })
	stop = func() { cancel(); group.Wait() }
	l.T.Cleanup(stop)
	return stop
}

// phase returns the phase of a job, nil if it has none.
func (l *lab) phase(id string) *vacuum.Phase {
	l.T.Helper()
	return vacuum.Decode(storetest.One[json.RawMessage](l.Lab, `SELECT vacuum FROM lethe.jobs WHERE id = $1`, id))
}

// awaits waits until the phase of a job is as it should be.
func (l *lab) awaits(id string, is func(vacuum.Phase) bool) vacuum.Phase {
	l.T.Helper()
	var last *vacuum.Phase
	require.Eventually(l.T, func() bool {
		last = l.phase(id)
		return last != nil && is(*last)
	}, time.Minute, 5*time.Millisecond, "%v", last)
	return *last
}

func ended(p vacuum.Phase) bool { return p.Ended() }

func running(p vacuum.Phase) bool { return p.State == vacuum.Running }

// vacuums returns how often the table of events was vacuumed.
func (l *lab) vacuums() int64 {
	l.T.Helper()
	return storetest.One[int64](l.Lab, `SELECT pg_stat_get_vacuum_count('events'::regclass)`)
}

// vacuumed waits until the table of events was vacuumed as often. Before PostgreSQL 15
// statistics are up to a second late.
func (l *lab) vacuumed(times int64) {
	l.T.Helper()
	require.Eventually(l.T, func() bool { return l.vacuums() == times }, time.Minute, 5*time.Millisecond)
}

// at returns how many sessions vacuum events at this moment.
func (l *lab) at() int64 {
	l.T.Helper()
	return storetest.One[int64](l.Lab, `SELECT count(*) FROM pg_stat_progress_vacuum WHERE datname = current_database() AND relid = 'events'::regclass`)
}

// readEdge reads the index entries below the edge of the purge, as a page does that ends
// there. It returns how many pages that has read, and how many the table has.
func (l *lab) readEdge() (read, pages float64) {
	l.T.Helper()
	var plan []struct {
		Plan struct {
			Hit  float64 `json:"Shared Hit Blocks"`
			Read float64 `json:"Shared Read Blocks"`
		}
	}
	l.Exec(`SET enable_seqscan = off`)
	l.Exec(`SET enable_bitmapscan = off`)
	text := storetest.One[string](l.Lab, `
		EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
		SELECT count(*) FROM events WHERE room_id = '`+room+`' AND topological_ordering < 5000`)
	require.NoError(l.T, json.Unmarshal([]byte(text), &plan))
	return plan[0].Plan.Hit + plan[0].Plan.Read, storetest.One[float64](l.Lab, `SELECT pg_relation_size('events'::regclass)::float8 / 8192`)
}

// value returns the value of a counter.
func value(t *testing.T, metric prometheus.Metric) float64 {
	t.Helper()
	var shown dto.Metric
	require.NoError(t, metric.Write(&shown))
	return shown.GetCounter().GetValue()
}

// connect returns another connection, for what other sessions do.
func (l *lab) connect() *pgx.Conn {
	l.T.Helper()
	conn, err := pgx.Connect(l.Ctx, l.url)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
