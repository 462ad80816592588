package besidetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// The tables are those of Synapse, down to the names of the constraints, by which errors
// are told apart.
func TestTablesAreSynapses(t *testing.T) {
	t.Parallel()
	synapses := storetest.On(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	own := storetest.On(t, Database(t))
	for _, of := range []string{
		`SELECT format('%s.%s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull)
		 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0 AND c.relname = ANY ($1) ORDER BY 1`,
		`SELECT format('%s %s', relname, relpersistence) FROM pg_class WHERE relname = ANY ($1) ORDER BY 1`,
		`SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY ($1) ORDER BY 1`,
		`SELECT format('%s %s %s', c.relname, o.conname, pg_get_constraintdef(o.oid))
		 FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid WHERE c.relname = ANY ($1) AND o.contype IN ('f', 'u', 'p') ORDER BY 1`,
		`SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		 WHERE c.relname = ANY ($1) AND NOT t.tgisinternal ORDER BY 1`,
	} {
		tables := []string{
			"cache_invalidation_stream_by_instance", "scheduled_tasks", "state_groups_pending_deletion", "worker_locks",
			"worker_read_write_locks", "worker_read_write_locks_mode",
		}
		want := storetest.All[string](synapses, of, tables)
		require.NotEmpty(t, want)
		require.Equal(t, want, storetest.All[string](own, of, tables))
	}
}
