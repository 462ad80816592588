package doctor

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/schema"
	"lethe/internal/store/storetest"
)

// Before PostgreSQL 17 the role becomes a member of the owner; from 17 on it gets MAINTAIN.
func TestTheGrantsToVacuumAreEnough(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, w *ward) {
		owner, _ := w.newRole()
		name, address := w.newRole()
		w.exec(`ALTER TABLE events OWNER TO `+pgx.Identifier{owner}.Sanitize(), `ALTER TABLE event_json OWNER TO `+pgx.Identifier{owner}.Sanitize())
		report := examineRole(w, w.url, name, vacuums)
		require.Len(t, report, 1)
		require.False(t, report.Healthy())
		require.Contains(t, report[0].Says, "may not vacuum ")
		maintain := storetest.Version(t, w.conn) >= 17_00_00
		grants := pgx.Identifier{name}.Sanitize() + ";"
		if maintain {
			require.Contains(t, report[0].Says, "run as the owner, or as a superuser")
			require.Contains(t, report[0].Do, "GRANT MAINTAIN ON events TO "+grants)
			require.Contains(t, report[0].Do, "GRANT MAINTAIN ON event_json TO "+grants)
			require.NotContains(t, strings.Join(report[0].Do, "\n"), pgx.Identifier{owner}.Sanitize(), "it need not be a member of the owner")
		} else {
			require.Contains(t, report[0].Says, "Before PostgreSQL 17 only an owner may")
			require.Contains(t, report[0].Do, "GRANT "+pgx.Identifier{owner}.Sanitize()+" TO "+grants)
			require.NotContains(t, strings.Join(report[0].Do, "\n"), "MAINTAIN", "the server does not know it")
		}
		require.Contains(t, strings.Join(report[0].Do, "\n"), pgx.Identifier{name}.Sanitize())
		require.NotContains(t, examineRole(w, w.url, "", vacuums)[0].Says, "not", "a superuser may")

		// Of the tests' owners one is a superuser, which the role should not become.
		for _, grant := range report[0].Do {
			if strings.Contains(grant, pgx.Identifier{owner}.Sanitize()) || strings.Contains(grant, "MAINTAIN") {
				w.exec(grant)
			}
		}
		conn, err := pgx.Connect(w.ctx, address)
		require.NoError(t, err)
		defer func() { _ = conn.Close(w.ctx) }()
		count := func() (n int64) {
			require.NoError(t, w.conn.QueryRow(w.ctx, `SELECT pg_stat_get_vacuum_count('events'::regclass)`).Scan(&n))
			return n
		}
		before := count()
		_, err = conn.Exec(w.ctx, `VACUUM public.events`)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return count() == before+1 }, time.Minute, 5*time.Millisecond) // before PostgreSQL 15 it is late
	})
}

func TestTheRoleThatVacuums(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	require.Equal(t, "the database has no role absent's; create it as a superuser:", examineRole(w, w.url, "absent's", vacuums)[0].Says)
	w.exec(finding(t, examineAs(w, w.plainURL()), "privileges").Do...)

	plain := finding(t, examineAs(w, w.plainURL()), aboutVacuum)
	require.Equal(t, Advice, plain.Verdict)
	require.Contains(t, plain.Says, "lethe doctor --for vacuum says what to grant")
	other := func(to string) func(*config.Config) {
		return func(c *config.Config) { c.Vacuum.DatabaseURL = config.Secret(to) }
	}
	require.Equal(t, OK, finding(t, examineAs(w, w.plainURL(), other(w.url)), aboutVacuum).Verdict)
	wrong, err := url.Parse(w.url)
	require.NoError(t, err)
	wrong.User = url.UserPassword("no_such_role", "hunter2")
	unusable := finding(t, examineAs(w, w.plainURL(), other(wrong.String())), aboutVacuum)
	require.Equal(t, Advice, unusable.Verdict)
	require.Contains(t, unusable.Says, "vacuum.database_url: ")
	require.NotContains(t, unusable.Says, "hunter2")
	off := finding(t, examineAs(w, w.plainURL(), func(c *config.Config) { c.Vacuum.Enabled = false }), aboutVacuum)
	require.Equal(t, OK, off.Verdict)
	require.Contains(t, off.Says, "vacuum.enabled is false")
}

func TestTheSpaceThatJobsHaveLeft(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	w.exec(`VACUUM (ANALYZE)`)
	space := func() (found []string) {
		for _, f := range examineAs(w, w.url) {
			if f.About == "space" {
				found = append(found, f.Says)
			}
		}
		return found
	}
	require.Empty(t, space(), "no job has deleted anything")
	w.exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at, deleted)
		VALUES ('AbCdEfGhIjKlMnOp', 'purge_history', '!a:x', '{}', '@a:x', 'complete', clock_timestamp(), '{"events": 5, "event_json": 9, "gone": 1}')`)
	found := space()
	require.Len(t, found, 2)
	require.Regexp(t, `^event_json, estimated by the server's statistics: .* with its indexes, .* are dead rows until a VACUUM, .*`+
		`a VACUUM with TRUNCATE may return .*, a rewrite, by pg_repack or REPACK \(CONCURRENTLY\) of PostgreSQL 19, would return `, found[0])
	require.Regexp(t, `^events, `, found[1])
}

func TestVacuumIsAmongTheNamesOfProcesses(t *testing.T) {
	t.Parallel()
	processes, err := ProcessesOf("vacuum")
	require.NoError(t, err)
	require.Equal(t, []schema.Process{vacuums}, processes)
	processes, err = ProcessesOf("api")
	require.NoError(t, err)
	require.Equal(t, []schema.Process{schema.API}, processes)
	_, err = ProcessesOf("vacuums")
	require.ErrorContains(t, err, `"vacuums" is not one of api, worker, scheduler and asynqmon, nor vacuum`)
}
