package doctor

import (
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// newRole creates a role that may only connect, and returns its name and its URL.
func (w *ward) newRole() (name, address string) {
	w.t.Helper()
	name = "a role's " + jobs.NewID()
	w.exec(`CREATE ROLE ` + pgx.Identifier{name}.Sanitize() + ` LOGIN`)
	u, err := url.Parse(w.url)
	require.NoError(w.t, err)
	u.User = url.User(name)
	return name, u.String()
}

// examineRole examines what a process needs. The database is reached by the address, and
// the role is that of the address if its name is "".
func examineRole(w *ward, address, name string, process schema.Process) Report {
	settings := config.Default()
	settings.Database.URL, settings.ServerName, settings.SynapseBeside = config.Secret(address), serverName, "false"
	return Examine(w.ctx, settings, checkup.Role{Name: name, Processes: []schema.Process{process}})
}

// may reports whether the role has the privilege on a table or, unless it is "", a
// column.
func (w *ward) may(role, privilege, table, column string) (may bool) {
	w.t.Helper()
	sql, args := `SELECT has_any_column_privilege($1::name, $3, $2)`, []any{role, privilege, table}
	if privilege == "DELETE" {
		sql = `SELECT has_table_privilege($1::name, $3, $2)`
	}
	if column != "" {
		sql, args = `SELECT has_column_privilege($1::name, $3, $4, $2)`, append(args, column)
	}
	require.NoError(w.t, w.conn.QueryRow(w.ctx, sql, args...).Scan(&may))
	return may
}

// What is printed for a process is what it lacks, and gives it nothing else.
func TestGrantsOfProcesses(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, w *ward) {
		w.exec(`REVOKE TEMPORARY ON DATABASE ` + pgx.Identifier{w.conn.Config().Database}.Sanitize() + ` FROM PUBLIC`)
		db, err := postgres.Open(w.ctx, w.url, postgres.Options{})
		require.NoError(t, err)
		defer db.Close()
		var roles []string
		for _, process := range schema.Processes() {
			name, address := w.newRole()
			roles = append(roles, name)
			report := examineRole(w, w.url, name, process)
			require.False(t, report.Healthy(), process)
			lacking := finding(t, report, "privileges")
			require.NotEmpty(t, lacking.Do)
			require.NotContains(t, strings.Join(lacking.Do, " "), "password_hash")
			w.exec(lacking.Do...)
			if process == schema.Worker {
				w.exec(finding(t, report, "speed").Do...)
				w.grant(finding(t, report, "wal").Do...)
			}

			report = examineRole(w, address, "", process)
			require.True(t, report.Healthy(), "%s: %v", process, report)
			for _, f := range report {
				// The right to vacuum is optional, and best given to a role of its own.
				granted := f.About != "speed" && f.About != "wal" || storetest.RowWise(t, w.conn) == ""
				if f.About != "redis" && f.About != "versions" && f.About != aboutVacuum && granted {
					require.Equal(t, OK, f.Verdict, "%s: %v", process, f)
				}
			}
			require.True(t, examineRole(w, w.url, name, process).Healthy(), process)

			// Each one is needed: without it, it is printed again.
			role := checkup.Role{Name: name, Processes: []schema.Process{process}}
			for _, grant := range lacking.Do {
				revoke := strings.Replace(strings.Replace(grant, "GRANT", "REVOKE", 1), " TO ", " FROM ", 1)
				w.exec(revoke)
				again, err := checkup.LackingPrivileges(w.ctx, db, role, nil)
				require.NoError(t, err)
				require.Equal(t, []string{grant}, again, process)
				w.exec(grant)
			}
		}

		api, worker, scheduler, asynqmon := roles[0], roles[1], roles[2], roles[3]
		for _, test := range []struct {
			privilege, table, column string
			roles                    []string
		}{
			{"SELECT", "users", "password_hash", nil},
			{"SELECT", "users", "name", []string{api, worker, asynqmon}},
			{"SELECT", "users", "admin", []string{api, asynqmon}},
			{"SELECT", "access_tokens", "token", []string{api, asynqmon}},
			{"SELECT", "access_tokens", "", []string{api, asynqmon}},
			{"SELECT", "events", "", []string{api, worker}},
			{"DELETE", "events", "", []string{worker}},
			{"INSERT", "events", "", []string{worker}},
			{"UPDATE", "rooms", "is_public", []string{api, worker}},
			{"UPDATE", "rooms", "creator", []string{worker}},
			{"DELETE", "event_forward_extremities", "", []string{api, worker}},
			{"DELETE", "blocked_rooms", "", []string{api}},
			{"SELECT", "lethe.jobs", "", []string{api, worker, scheduler}},
			{"DELETE", "lethe.jobs", "", []string{scheduler}},
			{"INSERT", "lethe.holds", "", []string{api}},
			{"SELECT", "lethe.schedules", "", []string{api, scheduler}},
			{"UPDATE", "lethe.schedules", "", []string{scheduler}},
			{"INSERT", "lethe.audit", "", []string{api}},
			{"UPDATE", "lethe.audit", "", nil},
			{"DELETE", "lethe.audit", "", []string{scheduler}},
		} {
			for _, role := range roles {
				want := false
				for _, allowed := range test.roles {
					want = want || role == allowed
				}
				require.Equal(t, want, w.may(role, test.privilege, test.table, test.column), "%v", test)
			}
		}
		// A scheduler reads nothing of Synapse's, and asynqmon nothing of Lethe's.
		for role, schemas := range map[string][]string{scheduler: {"lethe"}, asynqmon: {"public"}} {
			var found []string
			require.NoError(t, w.conn.QueryRow(w.ctx, `
				SELECT array_agg(DISTINCT n.nspname::text)
				FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE n.nspname IN ('public', 'lethe') AND c.relkind = 'r' AND has_any_column_privilege($1::name, c.oid, 'SELECT')`, role).
				Scan(&found))
			require.Equal(t, schemas, found)
		}
	})
}

func TestAdviceOnExcess(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	says := func(report Report) (says []string) {
		for _, f := range report {
			if f.About == "excess" {
				require.Equal(t, Advice, f.Verdict)
				says = append(says, f.Says)
			}
		}
		return says
	}
	superuser := says(examineRole(w, w.url, "", schema.API))
	require.Len(t, superuser, 1)
	require.Contains(t, superuser[0], "the role is a superuser; let api connect as a role of its own")

	name, _ := w.newRole()
	require.Empty(t, says(examineRole(w, w.url, name, schema.API)))
	w.exec(`ALTER TABLE users ADD COLUMN IF NOT EXISTS password_hash text`, `GRANT SELECT ON users TO `+pgx.Identifier{name}.Sanitize(),
		`GRANT DELETE ON events TO `+pgx.Identifier{name}.Sanitize())
	found := says(examineRole(w, w.url, name, schema.API))
	require.Len(t, found, 2)
	require.Contains(t, found[0], name+" may read users.password_hash")
	require.Contains(t, found[1], name+" may delete events")
	require.Len(t, says(examineRole(w, w.url, name, schema.Worker)), 1, "a worker deletes events")
}

func TestMissingRole(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	report := examineRole(w, w.url, `no"body`, schema.Worker)
	require.False(t, report.Healthy())
	lacking := finding(t, report, "privileges")
	require.Contains(t, lacking.Says, `has no role no"body`)
	require.Equal(t, []string{`CREATE ROLE "no""body" LOGIN PASSWORD '…';`}, lacking.Do)
}

func TestAsynqmonNeedsNoDatabaseIfTheHomeserverChecks(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	name, _ := w.newRole()
	settings := config.Default()
	settings.Database.URL, settings.Auth = config.Secret(w.url), config.AuthHomeserver
	report := Examine(w.ctx, settings, checkup.Role{Name: name, Processes: []schema.Process{schema.Asynqmon}})
	require.Equal(t, OK, finding(t, report, "privileges").Verdict)
}

// As documented, psql applies what the command prints.
func TestTheCommandPrintsForARole(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	name, address := w.newRole()
	run := func(database string, arguments ...string) (output string, err error) {
		command := exec.CommandContext(w.ctx, filepath.Join(devstacktest.Binaries(t), "lethe"), append([]string{"doctor"}, arguments...)...)
		command.Env = []string{"LETHE_DATABASE_URL=" + database}
		printed, err := command.CombinedOutput()
		return string(printed), err
	}
	output, err := run(w.url, "--for", "scheduler", "--role", name)
	require.Error(t, err)
	grep := exec.CommandContext(w.ctx, "grep", "-o", "GRANT .*;")
	grep.Stdin = strings.NewReader(output)
	grants, err := grep.Output()
	require.NoError(t, err)
	w.exec(string(grants))
	output, err = run(address, "-for", "scheduler")
	require.NoError(t, err, output)
	require.Contains(t, output, "the role has all privileges that scheduler needs")

	for _, arguments := range [][]string{{"-for", "reader"}, {"-for", ""}, {"-role", ""}, {"-role", strings.Repeat("r", 64)}} {
		output, err := run(w.url, arguments...)
		require.Error(t, err)
		require.Contains(t, output, "lethe: "+arguments[0])
		require.NotContains(t, output, "ok ")
	}
}

// A migration that makes a table must say who needs it.
func TestOwnTablesAreListed(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	var found []string
	require.NoError(t, w.conn.QueryRow(w.ctx, `
		SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables WHERE schemaname = 'lethe'`).Scan(&found))
	require.Equal(t, schema.OwnTables(), found)
}
