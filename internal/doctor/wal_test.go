package doctor

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/store/wal"
)

// grant runs those of the statements that are GRANTs. Others change the whole server.
func (w *ward) grant(statements ...string) {
	w.t.Helper()
	for _, sql := range statements {
		if strings.HasPrefix(sql, "GRANT ") {
			w.exec(sql)
		}
	}
}

// mendWAL does what the report says about the WAL of deletes, and requires that the next
// one has nothing to say.
func (w *ward) mendWAL(report Report, address, role string) {
	w.t.Helper()
	server, err := wal.Look(w.ctx, w.conn, w.role)
	require.NoError(w.t, err)
	found := finding(w.t, report, "wal")
	require.Equal(w.t, Advice, found.Verdict)
	if server.OnlySuperusers {
		return
	}
	require.Equal(w.t, []string{"GRANT SET ON PARAMETER wal_compression TO " + role + ";"}, found.Do)
	w.grant(found.Do...)
	found = finding(w.t, examineAs(w, address), "wal")
	require.Equal(w.t, OK, found.Verdict)
	require.Contains(w.t, found.Says, "workers set wal_compression to "+server.Built[0])
}

// A compression that was named and cannot be used keeps a worker from starting, so it is
// more than advice.
func TestCompressionThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	server, err := wal.Look(w.ctx, w.conn, w.role)
	require.NoError(t, err)
	named := func(c wal.Compression) func(*config.Config) {
		return func(settings *config.Config) { settings.Worker.WALCompression = string(c) }
	}
	found := finding(t, examineAs(w, w.plainURL(), named(wal.PGLZ)), "wal")
	require.Equal(t, Mend, found.Verdict)
	require.Contains(t, found.Says, "worker.wal_compression")
	if !server.OnlySuperusers {
		w.grant(found.Do...)
		require.Equal(t, OK, finding(t, examineAs(w, w.plainURL(), named(wal.PGLZ)), "wal").Verdict)
	}

	off := finding(t, examineAs(w, w.url, named(wal.Off)), "wal")
	require.Equal(t, Advice, off.Verdict)
	require.Contains(t, off.Says, "worker.wal_compression is off")
	require.Empty(t, off.Do)

	w.exec(`ALTER ROLE ` + pgx.Identifier{w.role}.Sanitize() + ` SET wal_compression = on`)
	own := finding(t, examineAs(w, w.plainURL(), named(wal.Off)), "wal")
	require.Equal(t, OK, own.Verdict)
	require.Contains(t, own.Says, "the server's own wal_compression is ")
}
