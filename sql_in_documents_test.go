package lethe_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/sweep"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// An sqlBlock is SQL that a document tells its reader to run.
type sqlBlock struct {
	place, sql string
}

// sqlLine is a line of an indented block that begins a statement, after its indentation.
var sqlLine = regexp.MustCompile(
	`^( {4,})((?:SELECT|WITH|TABLE|VALUES|EXPLAIN|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|CREATE|ALTER|DROP|GRANT|REVOKE|SET|VACUUM|ANALYZE|REINDEX|COPY|DO|CALL|LOCK|BEGIN)\b.*)$`)

// aboutRoles matches a statement about roles and their rights.
var aboutRoles = regexp.MustCompile(`^(CREATE ROLE|DROP ROLE|DROP OWNED BY|GRANT|REVOKE) `)

// sqlBlocks returns the SQL of all documents. A block ends with the first line that is
// not indented as its first is.
func sqlBlocks(t *testing.T) (blocks []sqlBlock) {
	t.Helper()
	for name, text := range documents(t) {
		require.NotContains(t, strings.ToLower(text), "```sql", "%s: indent SQL, as everywhere", name)
		lines := strings.Split(text, "\n")
		for i := 0; i < len(lines); i++ {
			found := sqlLine.FindStringSubmatch(lines[i])
			if found == nil {
				continue
			}
			block := sqlBlock{fmt.Sprintf("%s:%d", name, i+1), found[2]}
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], found[1]) {
				i++
				block.sql += "\n" + strings.TrimPrefix(lines[i], found[1])
			}
			blocks = append(blocks, block)
		}
	}
	slices.SortFunc(blocks, func(a, b sqlBlock) int { return strings.Compare(a.place, b.place) })
	return blocks
}

// TestSQLInDocumentsRuns runs the SQL of the documents beside a job of each state. A job
// is changed by a verb: what a document has for psql reads, or is about roles.
func TestSQLInDocumentsRuns(t *testing.T) {
	t.Parallel()
	blocks := sqlBlocks(t)
	require.NotEmpty(t, blocks)
	conn, err := pgx.Connect(t.Context(), devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	var swept sweep.Checkpoint
	swept.Sweep.Failures = []sweep.Failure{{Room: "!a:x", Error: "it is odd"}}
	for _, state := range journal.States() {
		_, err := conn.Exec(t.Context(), `
			INSERT INTO lethe.jobs (id, kind, room_id, requester, parameters, state, checkpoint, heartbeat_at, due_at, ended_at, error)
			VALUES ($1, 'retention_sweep', '', '', '{}', $2, $4::jsonb || '{"absorbed_by": "abcdefghijklmnop"}',
			        CASE WHEN $2 = 'running' THEN now() END, CASE WHEN $2 = 'scheduled' THEN now() END,
			        CASE WHEN $3 THEN now() END, CASE WHEN $2 = 'failed' THEN 'it failed' END)`,
			jobs.NewID(), string(state), state.Ended(), swept)
		require.NoError(t, err, state)
	}
	for _, block := range blocks {
		t.Run(block.place, func(t *testing.T) {
			if aboutRoles.MatchString(block.sql) {
				runForRoles(t, conn, block)
				return
			}
			tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly}) // a write fails
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(t.Context()) }()
			rows, err := tx.Query(t.Context(), strings.TrimSuffix(strings.TrimSpace(block.sql), ";"))
			require.NoError(t, err)
			read, err := pgx.CollectRows(rows, pgx.RowToMap)
			require.NoError(t, err)
			if strings.Contains(block.sql, "lethe.jobs") {
				require.NotEmpty(t, read)
			}
			for _, row := range read {
				if open, ok := row["jobs"]; ok {
					require.EqualValues(t, len(journal.States())-len(journal.EndStates()), open, "the open jobs")
				}
				if failures, ok := row["failures"]; ok {
					require.Equal(t, []any{map[string]any{"room_id": "!a:x", "error": "it is odd"}}, failures)
				}
			}
		})
	}
}

// runForRoles runs statements about roles for roles of this test's own, and takes them
// back.
func runForRoles(t *testing.T, conn *pgx.Conn, block sqlBlock) {
	t.Helper()
	var statements []string
	for line := range strings.Lines(block.sql) {
		if sqlLine.MatchString("    " + strings.TrimSpace(line)) { // and no output of a command, or a command
			require.Regexp(t, aboutRoles, line, "it is about roles only")
			statements = append(statements, line)
		}
	}
	require.NotEmpty(t, statements)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	var database string
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT current_database()`).Scan(&database))
	sql := strings.ReplaceAll(strings.Join(statements, ""), "DATABASE synapse", "DATABASE "+pgx.Identifier{database}.Sanitize())
	ofDocument := regexp.MustCompile(`\b(ROLE|BY|TO|FROM) (lethe(?:_\w+)?)\b`)
	unique := "_" + strings.ToLower(jobs.NewID())
	var made []string
	for _, role := range ofDocument.FindAllStringSubmatch(block.sql, -1) {
		if !strings.Contains(block.sql, "CREATE ROLE "+role[2]+" ") && !slices.Contains(made, role[2]) {
			_, err := tx.Exec(t.Context(), `CREATE ROLE `+role[2]+unique)
			require.NoError(t, err)
			made = append(made, role[2])
		}
	}
	_, err = tx.Exec(t.Context(), ofDocument.ReplaceAllString(sql, "${1} ${2}"+unique))
	require.NoError(t, err)
}
