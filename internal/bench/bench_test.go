package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// tiny is every case in some seconds, or in minutes where other tests run beside it:
// each makes and copies databases on a server that waits for its disk.
func tiny(t *testing.T) (context.Context, Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx, Options{
		Events: 400, Jobs: 4, LargeEvents: 300, SmallEvents: 200, Rooms: 4, Runs: 1, SweepRooms: 100,
		API:       filepath.Join(devstacktest.Binaries(t), "api"),
		Scheduler: filepath.Join(devstacktest.Binaries(t), "scheduler"),
		Worker:    filepath.Join(devstacktest.Binaries(t), "worker"),
	}
}

// TestEveryCase runs the cases that take seconds, or all if LETHE_TEST_CASES is "all".
// The others have times that sizes do not shorten.
func TestEveryCase(t *testing.T) {
	t.Parallel()
	ctx, options := tiny(t)
	expected := []string{"purge", "memory", "readers", "pages", "jobs", "rooms", "sweep"}
	if os.Getenv("LETHE_TEST_CASES") == "all" {
		expected = append(expected, "edge", "growth")
		ran := append(expected, "beside", "synapse") // these need a Synapse or its tables
		require.ElementsMatch(t, Cases(), ran)
	} else {
		options.Case = strings.Join(expected, ",")
	}
	table, err := Run(ctx, options)
	require.NoError(t, err)

	require.Contains(t, table.Schema, "embedded")
	require.NotEmpty(t, table.PostgreSQL)
	measured := map[string]bool{}
	for _, row := range table.Rows {
		measured[row.Case] = true
		if strings.Contains(row.Measure, "longer by") {
			// A difference, which may be nothing.
			require.GreaterOrEqual(t, row.Ratio, 0.0, "%s, %s, %s", row.Case, row.Measure, row.Subject.Name)
		} else {
			require.Positive(t, row.Ratio, "%s, %s, %s", row.Case, row.Measure, row.Subject.Name)
		}
		require.NotEmpty(t, row.Subject.Values)
	}
	require.ElementsMatch(t, expected, slices.Collect(maps.Keys(measured)))
	var printed bytes.Buffer
	require.NoError(t, table.Print(&printed))
	for _, row := range table.Rows {
		require.Contains(t, printed.String(), row.Measure)
	}
	_, err = json.Marshal(table)
	require.NoError(t, err)
}

// On the tables of a real Synapse, in a server that it was given.
func TestGivenDatabase(t *testing.T) {
	t.Parallel()
	ctx, options := tiny(t)
	options.Database = devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	options.Case = "purge"
	table, err := Run(ctx, options)
	require.NoError(t, err)
	require.Len(t, table.Rows, 5)

	conn, err := pgx.Connect(ctx, options.Database)
	require.NoError(t, err)
	defer conn.Close(ctx)
	var left, changed bool
	require.NoError(t, conn.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_database WHERE datname LIKE 'lethe_bench%')
		    OR EXISTS (SELECT FROM pg_roles WHERE rolname LIKE 'lethe_bench%'), to_regnamespace('lethe') IS NOT NULL`).
		Scan(&left, &changed))
	require.False(t, left, "all that was made is gone")
	require.False(t, changed, "what was given is as it was")
}

func TestAllWaysLeaveTheSame(t *testing.T) {
	t.Parallel()
	dumps := map[string]string{"embedded": "", "Synapse": devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")}
	for name, dump := range dumps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, options := tiny(t)
			options.Dump = dump
			r, err := newRig(ctx, options)
			require.NoError(t, err)
			defer func() {
				r.close(ctx, &err)
				require.NoError(t, err)
			}()
			template, err := r.template(ctx, "purge", options.Events)
			require.NoError(t, err)
			var first map[string]string
			for _, w := range ways {
				require.NoError(t, r.onCopy(ctx, template, func(d database) error {
					before := d.contents(t, ctx)
					if _, err := w.purge(ctx, d, template.rooms[0]); err != nil {
						return err
					}
					after := d.contents(t, ctx)
					require.NotEqual(t, before["events"], after["events"])
					require.NotEqual(t, before["event_txn_id_device_id"], after["event_txn_id_device_id"], "it cascades")
					// Plain SQL leaves what Synapse's purge leaves. Lethe deletes the rows of
					// purged events there too.
					for _, table := range []string{"event_relations", "threads"} {
						delete(after, table)
					}
					if first == nil {
						first = after
					}
					require.Equal(t, first, after, w.name)
					return nil
				}))
			}
		})
	}
}

// contents is a digest of each of the homeserver's tables.
func (d database) contents(t *testing.T, ctx context.Context) map[string]string {
	t.Helper()
	contents := map[string]string{}
	require.NoError(t, d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'`)
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, table := range tables {
			var digest string
			err = errors.Join(err, conn.QueryRow(ctx, fmt.Sprintf(`
				SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\n' ORDER BY t::text)), '') FROM %s t`, table)).Scan(&digest))
			contents[table] = digest
		}
		return err
	}))
	return contents
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	ctx, options := tiny(t)
	for wrong, change := range map[string]func(*Options){
		"there is no case":        func(o *Options) { o.Case = "speed" },
		"not both":                func(o *Options) { o.Database, o.Dump = "postgres://localhost/x", "x" },
		"API is not set":          func(o *Options) { o.API = "" },
		"Worker is not set":       func(o *Options) { o.Worker = "" },
		"Scheduler is not set":    func(o *Options) { o.Scheduler = "" },
		"Synapse must be set":     func(o *Options) { o.SynapseCommand = "true" },
		"SynapseToken and":        func(o *Options) { o.Synapse = "http://127.0.0.1:1" },
		"must be given as postgr": func(o *Options) { o.Database = "host=localhost password=secret" },
	} {
		options := options
		change(&options)
		_, err := Run(ctx, options)
		require.ErrorContains(t, err, wrong)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	values := []float64{5, 1, 4, 2, 3}
	require.InDelta(t, 3, quantile(values, 0.5), 0)
	require.InDelta(t, 1, quantile(values, 0), 0)
	require.InDelta(t, 5, quantile(values, 0.99), 0)
	require.InDelta(t, 5, quantile(values, 1), 0)
	require.InDelta(t, 1, quantile([]float64{2, 1}, 0.5), 0)
	require.Zero(t, quantile(nil, 0.5))
	require.Equal(t, []float64{5, 1, 4, 2, 3}, values, "in the order of the runs")
}
