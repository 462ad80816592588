package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/redisdb"
	"lethe/internal/roomgen"
)

// The files of an upgrade fixture: what a release has left of a database and of a Redis,
// with jobs in every state. They are in a folder of testdata/upgrade that is named after the
// release's last migration. TestRecordUpgrade makes them.
const (
	upgradeDatabase = "database.dump"
	upgradeRedis    = "redis.rdb"
	upgradeJobs     = "jobs.json"
)

// upgradeRoom is the id of the fixture's room for jobs in that state.
func upgradeRoom(state string) string { return "!" + state + ":" + server }

// newUpgradeFleet is a fleet without an api on the database, and on a Redis with that
// directory.
func newUpgradeFleet(t *testing.T, database, dir string) *fleet {
	t.Helper()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return newFleetWith(t, database, server)
}

// operate runs the program lethe on the fleet's database.
func (f *fleet) operate(args ...string) {
	f.t.Helper()
	command := exec.CommandContext(f.t.Context(), filepath.Join(devstacktest.Binaries(f.t), "lethe"), args...)
	command.Env = f.env
	output, err := command.CombinedOutput()
	require.NoError(f.t, err, "%s", output)
}

// purgeAll purges the room up to its last event.
func (f *fleet) purgeAll(room string) string {
	f.t.Helper()
	last := query[string](f, `SELECT event_id FROM events WHERE room_id = $1 ORDER BY topological_ordering DESC LIMIT 1`, room)
	return f.purge(room, map[string]any{"purge_up_to_event_id": last, "delete_local_events": true})
}

func (f *fleet) shutDown(room string) string {
	f.t.Helper()
	status, answer := f.ask(http.MethodDelete, "/_synapse/admin/v2/rooms/"+room, map[string]any{"purge": true, "force_purge": true})
	require.Equal(f.t, http.StatusOK, status, "%v", answer)
	return answer["delete_id"].(string)
}

// signingKey is the setting of a new signing key.
func signingKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "signing.key")
	require.NoError(t, os.WriteFile(file, []byte(matrix.GenerateSigningKey()), 0o600))
	return "LETHE_SIGNING_KEY_FILE=" + file
}

func (f *fleet) awaitState(id, state string) {
	f.t.Helper()
	f.eventually(time.Minute, func() bool {
		return query[string](f, `SELECT state FROM lethe.jobs WHERE id = $1`, id) == state
	}, "job %s is not %s", id, state)
}

// TestUpgrade starts this release on what each of the releases before it has left, and
// finishes every job.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("testdata/upgrade/*")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			upgrade(t, folder)
		})
	}
}

func upgrade(t *testing.T, folder string) {
	text, err := os.ReadFile(filepath.Join(folder, upgradeJobs))
	require.NoError(t, err)
	var jobs map[string]string // ids by what they are
	require.NoError(t, json.Unmarshal(text, &jobs))
	snapshot, err := os.ReadFile(filepath.Join(folder, upgradeRedis))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777)) // the server's user is another one for root
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dump.rdb"), snapshot, 0o644))
	database, err := filepath.Abs(filepath.Join(folder, upgradeDatabase))
	require.NoError(t, err)

	f := newUpgradeFleet(t, devstacktest.Restored(t, database), dir)
	ended := func() string {
		return query[string](f, `SELECT string_agg((to_jsonb(j) - '{samples,vacuum,vacuumed}'::text[])::text, E'\n' ORDER BY id) FROM lethe.jobs j WHERE id IN ($1, $2, $3)`,
			jobs["purged"], jobs["deleted"], jobs["failed"])
	}
	before := ended()
	require.Equal(t, "running", query[string](f, `SELECT state FROM lethe.jobs WHERE id = $1`, jobs["running"]))
	batches := f.batches(jobs["running"])
	require.Positive(t, batches)
	if filepath.Base(folder) == "00013" {
		// The tasks of that release are where no process of this one looks.
		client, err := redisdb.Open(f.redis.URL())
		require.NoError(t, err)
		defer func() { _ = client.Close() }()
		require.EqualValues(t, 1, client.Exists(t.Context(), "asynq:{default}:t:"+jobs["queued"]+"~1").Val())
	}

	f.operate("migrate", "-embedded")
	f.operate("migrate")
	f.api = f.start("api")
	for _, open := range []string{"queued", "running", "held"} {
		require.Equal(t, "active", f.status(jobs[open])["status"], open)
	}
	f.start("scheduler", "LETHE_JOURNAL_KEEP=175200h") // however old the fixture is
	f.start("worker", signingKey(t))
	for _, open := range []string{"queued", "running", "queued delete"} {
		f.awaitState(jobs[open], "complete")
	}
	require.Equal(t, 1, query[int](f, `SELECT generation FROM lethe.jobs WHERE id = $1`, jobs["queued"]), "it is not taken for lost")
	require.Greater(t, f.batches(jobs["running"]), batches, "it goes on from its checkpoint")
	require.Equal(t, "held", query[string](f, `SELECT state FROM lethe.jobs WHERE id = $1`, jobs["held"]))
	f.operate("hold", "release", "-room", upgradeRoom("held"), "-by", "counsel")
	f.awaitState(jobs["held"], "complete")

	require.Equal(t, before, ended(), "what had ended stays as it was")
	for _, purged := range []string{"purged", "queued", "running", "held"} {
		require.Equal(t, 1, query[int](f, `
			SELECT count(DISTINCT topological_ordering) FROM events WHERE room_id = $1 AND NOT outlier`, upgradeRoom(purged)), purged)
	}
	for _, deleted := range []string{"deleted", "queued-delete"} {
		require.Zero(t, query[int](f, `
			SELECT (SELECT count(*) FROM events WHERE room_id = $1) + (SELECT count(*) FROM rooms WHERE room_id = $1)`, upgradeRoom(deleted)), deleted)
	}
}

// TestRecordUpgrade makes the upgrade fixture with the programs of a release. It runs
// only for "make upgrade-fixture".
func TestRecordUpgrade(t *testing.T) {
	if os.Getenv("LETHE_RECORD_UPGRADE") == "" {
		t.Skip("only for make upgrade-fixture")
	}
	dir, err := os.MkdirTemp("", "upgrade") // which the server's user can enter
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o777))
	database := devstacktest.EmptyDatabase(t)
	f := newUpgradeFleet(t, database, dir)
	f.operate("migrate", "-embedded")
	require.NoError(t, roomgen.Account(t.Context(), f.sql, admin, token, true))
	for seed, state := range []string{"purged", "deleted", "failed", "held", "queued", "queued-delete", "running"} {
		_, err := roomgen.Generate(t.Context(), f.sql, roomgen.Room{
			ID: upgradeRoom(state), Server: server, Events: map[bool]int{true: 300, false: 40}[state == "running"], Seed: uint64(seed),
		})
		require.NoError(t, err)
	}
	f.api = f.start("api")
	scheduler, worker := f.start("scheduler"), f.start("worker", slowly)
	status, answer := f.ask(http.MethodDelete, "/_synapse/admin/v2/rooms/"+upgradeRoom("failed"), map[string]any{"purge": true})
	require.Equal(t, http.StatusOK, status, "%v", answer)
	jobs := map[string]string{"failed": answer["delete_id"].(string)}
	f.awaitState(jobs["failed"], "failed") // without a key to sign the events with
	worker.kill()
	worker = f.start("worker", slowly, signingKey(t))
	jobs["purged"], jobs["deleted"] = f.purgeAll(upgradeRoom("purged")), f.shutDown(upgradeRoom("deleted"))
	f.awaitState(jobs["purged"], "complete")
	f.awaitState(jobs["deleted"], "complete")

	f.lengthenBatches()
	jobs["held"] = f.purgeAll(upgradeRoom("held"))
	f.eventually(time.Minute, func() bool { return f.batches(jobs["held"]) > 0 }, "it does not begin")
	f.operate("hold", "place", "-room", upgradeRoom("held"), "-reason", "case 7", "-by", "counsel")
	f.awaitState(jobs["held"], "held")

	jobs["running"] = f.purgeAll(upgradeRoom("running"))
	f.eventually(time.Minute, func() bool { return f.batches(jobs["running"]) >= 3 }, "it does not begin")
	scheduler.kill() // before it takes the job from the worker that dies
	worker.kill()
	require.Equal(t, "running", query[string](f, `SELECT state FROM lethe.jobs WHERE id = $1`, jobs["running"]))
	jobs["queued"], jobs["queued delete"] = f.purgeAll(upgradeRoom("queued")), f.shutDown(upgradeRoom("queued-delete"))
	_, err = f.sql.Exec(t.Context(), `DROP TRIGGER lengthen ON lethe.jobs; DROP FUNCTION lethe.lengthen()`)
	require.NoError(t, err)
	f.api.kill()

	folder := filepath.Join("testdata/upgrade", fmt.Sprintf("%05d", query[int](f, `SELECT max(version_id) FROM lethe.migrations_lethe`)))
	require.NoError(t, os.MkdirAll(folder, 0o755))
	text, err := json.MarshalIndent(jobs, "", "\t")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, upgradeJobs), append(text, '\n'), 0o644))
	dump := exec.CommandContext(t.Context(), "pg_dump", "-Fc", "--no-owner", "-d", database, "-f", filepath.Join(folder, upgradeDatabase))
	output, err := dump.CombinedOutput()
	require.NoError(t, err, "%s", output)
	client, err := redisdb.Open(f.redis.URL())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	require.NoError(t, client.Save(t.Context()).Err())
	snapshot, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, upgradeRedis), snapshot, 0o644))
	fmt.Println("recorded", len(jobs), "jobs")
}
