package vacuum

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/vacuum"
)

// A worker's role that has only what schema says vacuums with the grants that
// [vacuum.Queries.Rights] returns. From PostgreSQL 17 on that is MAINTAIN on each table, and
// the role gets no other right of the tables' owner. Before, it becomes a member of the owner.
func TestTheRoleOfAWorkerVacuumsWithWhatItIsGranted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	worker := storetest.AsKnownColumns(t, l.url, schema.Worker)
	parsed, err := url.Parse(worker)
	require.NoError(t, err)
	role := parsed.User.Username()
	owner := role + "'s owner"
	quoted := pgx.Identifier{owner}.Sanitize()
	l.Exec(`CREATE ROLE ` + quoted)
	l.Exec(`ALTER TABLE events OWNER TO ` + quoted)
	db, err := postgres.Open(l.Ctx, worker, postgres.Options{ApplicationName: "lethe worker", MaxConnections: 2})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	vacuumed := func(id string) *vacuum.EmptiedTable {
		t.Helper()
		v := New(db, slog.New(slog.DiscardHandler), l.metrics, Options{URL: worker})
		require.NoError(t, v.round(l.Ctx))
		v.close()
		phase := l.phase(id)
		require.True(t, phase.Ended())
		return phase.Table("events")
	}
	queries := vacuum.New(db)
	rights := func() vacuum.Rights {
		t.Helper()
		rights, err := queries.Rights(l.Ctx, role, []string{"events", "no_such_table"})
		require.NoError(t, err)
		return rights
	}

	before := l.vacuums()
	events := vacuumed(l.purged(true))
	require.Equal(t, vacuum.Skipped, events.State)
	require.Equal(t, "the role "+role+" may not vacuum it: lethe doctor --for vacuum says what to grant", events.Reason)
	require.Equal(t, before, l.vacuums())
	lacking := rights()
	require.Equal(t, []string{"events"}, lacking.Tables)
	require.Equal(t, storetest.Version(t, l.Conn) >= 17_00_00, lacking.Maintain)
	if lacking.Maintain {
		require.Equal(t, []string{`GRANT MAINTAIN ON events TO ` + role + `;`}, lacking.Grants)
	} else {
		require.Equal(t, []string{`GRANT ` + quoted + ` TO ` + role + `;`}, lacking.Grants)
	}

	for _, grant := range lacking.Grants {
		l.Exec(strings.TrimSuffix(grant, ";"))
	}
	require.Empty(t, rights().Tables)
	require.Empty(t, rights().Grants)
	again := l.Queue(room)
	l.end(l.Claim(again), map[string]int64{"events": 1000}, 1)
	events = vacuumed(again)
	require.Equal(t, vacuum.Done, events.State, events.Reason)
	l.vacuumed(before + 1)
	require.Equal(t, !lacking.Maintain, storetest.One[bool](l.Lab, `SELECT pg_has_role($1::name, $2::name, 'MEMBER')`, role, owner))
	if lacking.Maintain {
		l.Exec(`REVOKE MAINTAIN ON events FROM ` + role)
	} else {
		l.Exec(`REVOKE ` + quoted + ` FROM ` + role)
	}
	require.Equal(t, lacking, rights(), "without the grant it is printed again")
}
