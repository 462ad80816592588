package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// An operation is one of fixtures/operations.json.
type operation struct {
	Room    string         `json:"room_id"`
	Op      string         `json:"op"`
	Request map[string]any `json:"request"`

	// Final is the status of a delete at its end.
	Final struct {
		Shutdown struct {
			KickedUsers  []string `json:"kicked_users"`
			LocalAliases []string `json:"local_aliases"`
			NewRoomID    *string  `json:"new_room_id"`
		} `json:"shutdown_room"`
	} `json:"final"`
}

// corpus is a fleet on a new copy of the database of a real Synapse, and what
// Synapse itself did of that sort on it: purge_history or delete.
func corpus(t *testing.T, sort string) (*fleet, []operation) {
	t.Helper()
	var users struct {
		Admin  string `json:"admin"`
		Server string `json:"server"`
	}
	readShared(t, &users, "corpus.json")
	var all, done []operation
	readShared(t, &all, "operations.json")
	for _, op := range all {
		if op.Op == sort {
			done = append(done, op)
		}
	}
	require.NotEmpty(t, done)
	database := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	f := newFleet(t, database, users.Server, users.Admin)
	// No homeserver runs that could send the leaves of deletes to other servers: it is as
	// if it had sent them at once.
	_, err := f.sql.Exec(t.Context(), `UPDATE federation_stream_position SET stream_id = 1000000000 WHERE type = 'events'`)
	require.NoError(t, err)
	return f, done
}

func readShared(t *testing.T, into any, name string) {
	t.Helper()
	raw, err := os.ReadFile(devstacktest.Shared(t, "fixtures", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}

// compare is what compare.py says of the purged rooms beside what Synapse made of
// them, and "" where there is no Python.
func (f *fleet) compare(purges []operation) string {
	f.t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		return ""
	}
	after := devstacktest.Restored(f.t, devstacktest.Shared(f.t, "fixtures", "synapse-1.160-after.dump"))
	before := devstacktest.Restored(f.t, devstacktest.Shared(f.t, "fixtures", "synapse-1.160-corpus.dump"))
	args := []string{
		filepath.Join("testdata", "compare_on_kept_connections.py"), devstacktest.Shared(f.t, "oracle", "compare.py"),
		after, f.database, "--before", before,
	}
	for _, op := range purges {
		args = append(args, "--room", op.Room)
	}
	// Its status says no more than its last line, and a caller wants them all.
	report, _ := exec.CommandContext(f.t.Context(), python, args...).CombinedOutput()
	require.NotEmpty(f.t, report)
	return string(report)
}

// judged holds what compare.py said of so many rooms against that it found no
// difference.
func judged(t *testing.T, rooms int, said string) {
	t.Helper()
	if said == "" {
		t.Skip("python3 is not there: the purged rooms are not compared with Synapse's")
	}
	require.Equal(t, fmt.Sprintf("0 differing tables in %d rooms\n", rooms), said)
}

// contents is a digest of each of the homeserver's tables.
func (f *fleet) contents() map[string]string {
	f.t.Helper()
	rows, err := f.sql.Query(f.t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
	require.NoError(f.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(f.t, err)
	contents := map[string]string{}
	for _, table := range tables {
		contents[table] = query[string](f, `
			SELECT coalesce(md5(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C")), 'empty')
			FROM `+pgx.Identifier{table}.Sanitize()+` t`)
	}
	require.NotEmpty(f.t, contents)
	return contents
}

// reference is what the purges make of the database when nothing disturbs them,
// and what compare.py says of it. [TestPurgesAsSynapseDoes] has it that this is
// what Synapse makes of it; other runs are held against it, table by table.
var reference struct {
	sync.Mutex
	contents map[string]string
	said     string
}

func referenceContents(t *testing.T) (contents map[string]string, said string) {
	t.Helper()
	reference.Lock()
	defer reference.Unlock()
	if reference.contents == nil {
		f, purges := purgedCorpus(t)
		require.Len(t, purges, 5)
		reference.said = f.compare(purges)
		reference.contents = f.contents()
	}
	return reference.contents, reference.said
}

// asReference fails unless the purges made of the database what they make of it
// when nothing disturbs them.
func (f *fleet) asReference() {
	f.t.Helper()
	contents, _ := referenceContents(f.t)
	require.Empty(f.t, cmp.Diff(contents, f.contents()))
}

// purgedCorpus is the corpus after its purges, which nothing disturbed.
func purgedCorpus(t *testing.T) (*fleet, []operation) {
	t.Helper()
	f, purges := corpus(t, "purge_history")
	worker := f.start("worker")
	f.await(3*time.Minute, f.submit(purges)...)
	worker.kill()
	return f, purges
}

// killRuns is in how many runs workers are killed: one, or as many as
// LETHE_TEST_KILL_RUNS says.
func killRuns(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LETHE_TEST_KILL_RUNS")
	if text == "" {
		return 1
	}
	runs, err := strconv.Atoi(text)
	require.NoError(t, err)
	return runs
}

// committed is how many batches all jobs have committed.
func (f *fleet) committed() int {
	return query[int](f, `SELECT coalesce(sum((checkpoint->>'batches')::int), 0) FROM lethe.jobs`)
}

// afterBatches waits until the jobs have committed so many batches more. They may end
// with fewer, because the size of a batch adapts: then it waits for that.
func (f *fleet) afterBatches(more int) {
	f.t.Helper()
	point := f.committed() + more
	f.eventually(time.Minute, func() bool {
		return f.committed() >= point || query[bool](f, `SELECT bool_and(ended_at IS NOT NULL) FROM lethe.jobs`)
	}, "no progress to %d batches", point)
}

func (f *fleet) submit(purges []operation) (ids []string) {
	f.t.Helper()
	for _, op := range purges {
		ids = append(ids, f.purge(op.Room, op.Request))
	}
	return ids
}

func TestPurgesAsSynapseDoes(t *testing.T) {
	t.Parallel()
	_, said := referenceContents(t)
	judged(t, 5, said)
}

func TestPurgesAsSynapseDoesInManyBatches(t *testing.T) {
	t.Parallel()
	f, purges := corpus(t, "purge_history")
	f.start("worker", "LETHE_WORKER_BATCH_EVENTS=5", "LETHE_DATABASE_URL="+devstacktest.AsPlainRole(t, f.database))
	ids := f.submit(purges)
	f.await(3*time.Minute, ids...)
	for _, id := range ids {
		require.GreaterOrEqual(t, f.batches(id), 10)
	}
	f.asReference()
}

// TestPurgesAsSynapseDoesThroughKills kills the worker twice in each run,
// each time after a random number of batches.
func TestPurgesAsSynapseDoesThroughKills(t *testing.T) {
	t.Parallel()
	for run := range killRuns(t) {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			f, purges := corpus(t, "purge_history")
			f.start("scheduler")
			worker := f.start("worker", "LETHE_WORKER_BATCH_EVENTS=2")
			ids := f.submit(purges)
			for range 2 {
				f.afterBatches(1 + rand.IntN(100))
				worker.kill()
				t.Logf("killed after %d batches", f.committed())
				worker = f.start("worker", "LETHE_WORKER_BATCH_EVENTS=2")
			}
			f.await(4*time.Minute, ids...)
			require.Positive(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE generation > 1`), "no kill met a job")
			f.asReference()
		})
	}
}
