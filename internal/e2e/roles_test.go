package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

var printedGrant = regexp.MustCompile(`GRANT .*;`)

// roleOf creates a role for a process, with what `lethe doctor` prints for it, and
// returns the variable that names the database for the role.
func (f *fleet) roleOf(process string) string {
	f.t.Helper()
	address := devstacktest.AsNewRole(f.t, f.database)
	parsed, err := url.Parse(address)
	require.NoError(f.t, err)
	doctor := exec.CommandContext(f.t.Context(), filepath.Join(devstacktest.Binaries(f.t), "lethe"),
		"doctor", "--for", process, "--role", parsed.User.Username())
	doctor.Env = f.env
	report, err := doctor.Output()
	require.Error(f.t, err, "it lacks nothing: %s", report)
	for _, grant := range printedGrant.FindAllString(string(report), -1) {
		_, err := f.sql.Exec(f.t.Context(), grant)
		require.NoError(f.t, err)
	}
	doctor = exec.CommandContext(f.t.Context(), filepath.Join(devstacktest.Binaries(f.t), "lethe"), "doctor", "--for", process)
	doctor.Env = append(append([]string{}, f.env...), "LETHE_DATABASE_URL="+address)
	report, err = doctor.CombinedOutput()
	require.NoError(f.t, err, "%s", report)
	require.NotContains(f.t, string(report), "MEND")
	return "LETHE_DATABASE_URL=" + address
}

// TestProcessesUnderTheirOwnRoles has each process work with no right but those that
// the doctor prints for it, on the database of a real Synapse.
func TestProcessesUnderTheirOwnRoles(t *testing.T) {
	t.Parallel()
	f, deletes := corpus(t, "delete")
	var purges []operation
	readShared(t, &purges, "operations.json")
	f.api.kill()
	f.env = append(f.env, withKey(t), "LETHE_ASYNQMON_LISTEN=127.0.0.1:0")
	f.env = append(f.env, yearly...)
	// The longest of the corpus's times is much longer ago.
	f.env = append(f.env, "LETHE_RETENTION_DEFAULT_POLICY_MAX_LIFETIME=1h")
	ofScheduler := f.roleOf("scheduler")
	f.api = f.start("api", f.roleOf("api"))
	processes := []*process{f.api, f.start("worker", f.roleOf("worker")), f.start("scheduler", ofScheduler)}

	// Pages, and what else an api reads.
	room := "!hKLkfkSsmEZAGMWCxD:lab.test"
	require.NotEmpty(t, f.walk("/_synapse/admin/v1/rooms/"+room+"/messages", "b", 50))
	member := *f
	member.token = query[string](f, `
		SELECT t.token FROM access_tokens t JOIN local_current_membership m USING (user_id) JOIN users u ON u.name = t.user_id
		WHERE m.room_id = $1 AND m.membership = 'join' AND u.admin = 0 AND t.valid_until_ms IS NULL LIMIT 1`, room)
	require.NotEmpty(t, member.walk("/_matrix/client/v3/rooms/"+room+"/messages", "f", 50))
	for _, path := range []string{
		"rooms", "rooms/" + room, "rooms/" + room + "/members", "rooms/" + room + "/state", "room/" + room + "/media",
		"statistics/database/rooms", "event_reports", "scheduled_tasks", "rooms/" + room + "/forward_extremities",
	} {
		code, answer := f.ask(http.MethodGet, "/_synapse/admin/v1/"+path, nil)
		require.Equal(t, http.StatusOK, code, "%s: %v", path, answer)
	}
	// The time is in user_ips, of which an api may read two columns.
	id := query[string](f, `SELECT user_id FROM access_tokens WHERE token = $1`, member.token)
	code, user := f.ask(http.MethodGet, "/_synapse/admin/v2/users/"+id, nil)
	require.Equal(t, http.StatusOK, code, "%v", user)
	require.EqualValues(t, query[int64](f, `SELECT max(last_seen) FROM user_ips WHERE user_id = $1`, id), user["last_seen_ts"])

	// A hold, a block, purges, and deletes with a new room.
	code, answer := f.ask(http.MethodPut, "/_lethe/v1/holds/"+room, map[string]any{"reason": "why"})
	require.Equal(t, http.StatusOK, code, "%v", answer)
	code, answer = f.ask(http.MethodPut, "/_synapse/admin/v1/rooms/"+room+"/block", map[string]any{"block": true})
	require.Equal(t, http.StatusOK, code, "%v", answer)
	code, answer = f.ask(http.MethodPut, "/_synapse/admin/v1/rooms/"+room+"/block", map[string]any{"block": false})
	require.Equal(t, http.StatusOK, code, "%v", answer)
	code, answer = f.ask(http.MethodDelete, "/_lethe/v1/holds/"+room, nil)
	require.Equal(t, http.StatusOK, code, "%v", answer)
	var ids []string
	for _, op := range purges {
		if op.Op == "purge_history" {
			ids = append(ids, f.purge(op.Room, op.Request))
		}
	}
	f.await(2*time.Minute, ids...)
	f.deleteAll(deletes, 2*time.Minute, func() {})
	code, answer = f.ask(http.MethodDelete, "/_synapse/admin/v1/rooms/"+room+"/forward_extremities", nil)
	require.Equal(t, http.StatusOK, code, "%v", answer)

	// A sweep, and its purges.
	events := query[int](f, `SELECT count(*) FROM events`)
	once := f.scheduler(t.Context(), []string{ofScheduler}, "--once", "--wait")
	require.Equal(t, 0, once.status, once.said)
	f.eventually(2*time.Minute, func() bool { return query[int](f, `SELECT count(*) FROM lethe.jobs WHERE ended_at IS NULL`) == 0 },
		"the purges of the sweep have not ended")
	require.Zero(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE state <> 'complete'`), f.rows())
	require.Positive(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE queue = 'low'`))
	require.Less(t, query[int](f, `SELECT count(*) FROM events`), events)

	// asynqmon, which reads tokens, and one that asks the api for whom they speak.
	withDatabase := f.start("asynqmon", f.roleOf("asynqmon"))
	without := f.start("asynqmon", "LETHE_DATABASE_URL=", "LETHE_AUTH=homeserver", fmt.Sprintf("LETHE_HOMESERVER_URL=http://%s", f.api.address))
	for _, p := range []*process{withDatabase, without} {
		status, _, body := p.asynqmon(http.MethodGet, "/api/queues", f.token)
		require.Equal(t, http.StatusOK, status, body)
		status, _, body = p.asynqmon(http.MethodGet, "/api/queues", member.token)
		require.Equal(t, http.StatusForbidden, status, body)
		status, _, body = p.asynqmon(http.MethodGet, "/api/queues", "no token")
		require.Equal(t, http.StatusUnauthorized, status, body)
		status, _, body = p.asynqmon(http.MethodGet, "/readyz", "")
		require.Equal(t, http.StatusOK, status, body)
	}

	for _, p := range append(processes, withDatabase, without) {
		p.mu.Lock()
		require.NotContains(t, p.log.String(), "42501", "%s was refused something", p.name)
		p.mu.Unlock()
	}
	// All four have worked as their own roles, and none reads passwords.
	roles, err := f.sql.Query(t.Context(), `
		SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'plain\_%'`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(roles, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, names, 4)
	for _, name := range names {
		require.False(t, query[bool](f, `SELECT has_column_privilege($1::name, 'users', 'password_hash', 'SELECT')`, name), name)
	}
}
