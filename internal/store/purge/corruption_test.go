package purge_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/checkup"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// corruptionsVariable is the environment variable for the number of corruptions.
const corruptionsVariable = "LETHE_TEST_CORRUPTIONS"

// An index may be corrupt in these ways.
const (
	swapped    = "swapped"    // the entries of two keys lead to each other's rows
	missing    = "missing"    // the entries of a key are not there
	duplicated = "duplicated" // a key has the entries of another one too
)

// TestCorruptIndexesCostNoOtherRow corrupts an index that a purge or a delete uses.
// The job then deletes no row that it would not have deleted with an intact index. If
// the job fails, its error names the index. After REINDEX a second run deletes what
// is left.
func TestCorruptIndexesCostNoOtherRow(t *testing.T) {
	t.Parallel()
	runs := 12
	if s := os.Getenv(corruptionsVariable); s != "" {
		var err error
		runs, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	clean := map[string]map[string]int{}
	for _, work := range []string{"purge", "delete"} {
		l := corruptible(t)
		before := l.rows()
		require.NoError(t, l.finish(work))
		clean[work] = gone(before, l.rows())
		require.Greater(t, len(clean[work]), 500)
	}
	indexes := corruptible(t).indexes()
	require.Greater(t, len(indexes), 40)
	for seed := range runs {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(seed), 1))
			l := corruptible(t)
			work := []string{"purge", "delete"}[seed%2]
			kind := []string{swapped, missing, duplicated}[seed/2%3]
			index := indexes[random.IntN(len(indexes))]
			what := l.corrupt(random, index, kind)
			for what == "" {
				index = indexes[random.IntN(len(indexes))]
				what = l.corrupt(random, index, kind)
			}
			before := l.rows()
			_, corrupt, err := checkup.CheckIndexes(l.Ctx, l.DB)
			require.NoError(t, err)
			require.Len(t, corrupt, 1, what)
			require.Equal(t, index.name, corrupt[0].Name, corrupt[0].Reason)

			err = l.finish(work)
			for row, n := range gone(before, l.rows()) {
				require.LessOrEqual(t, n, clean[work][row], "%s, %s: %s", what, work, row)
			}
			t.Log(what, work, err)
			if kind != missing && err != nil {
				require.ErrorContains(t, err, index.name, what)
			}
			if kind == missing {
				l.Exec(`REINDEX INDEX ` + index.name)
				l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now(), heartbeat_at = NULL`)
				require.NoError(t, l.finish(work))
				for row, n := range clean[work] {
					if strings.HasPrefix(row, "events ") {
						require.Equal(t, n, gone(before, l.rows())[row], "%s, %s: %s", what, work, row)
					}
				}
			}
		})
	}
}

// TestCorruptIndexMisleadsASearch corrupts the indexes by which the second connection
// finds rows: one event that is deleted and one of another room have changed places.
func TestCorruptIndexMisleadsASearch(t *testing.T) {
	t.Parallel()
	for _, x := range corruptible(t).indexes() {
		if !slices.Contains(purge.SearchedTables(), x.table) || !slices.Contains(x.columns, "event_id") {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			l := corruptible(t)
			const rooms = `t.event_id IN (SELECT event_id FROM events WHERE room_id = '%s' AND state_key IS NULL AND depth < 50)`
			what := l.corruptKeys(x, "event_id", swapped,
				l.keys(x, "event_id", fmt.Sprintf(rooms, room))[0], l.keys(x, "event_id", fmt.Sprintf(rooms, "!other:x"))[0])
			before := l.rows()
			err := l.finish("purge")
			for row, n := range gone(before, l.rows()) {
				require.NotContains(t, row, "!other:x", "%s: %d", what, n)
			}
			if x.columns[0] != "room_id" { // with the room in front, the other room's entry is not found
				require.ErrorIs(t, err, purge.ErrCorrupt, what)
				require.ErrorContains(t, err, x.name)
			}
		})
	}
}

// corruptible is a database with three rooms, each with a row in every table.
func corruptible(t *testing.T) *lab {
	t.Helper()
	l := setupOn(t, devstacktest.Database(t, "corruptible", func(ctx context.Context, url string) error {
		if err := migrate.UpEmbedded(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, `
			SET search_path = public;
			CREATE EXTENSION amcheck;
			INSERT INTO users (name) VALUES ('@u:x');
			INSERT INTO devices (user_id, device_id) VALUES ('@u:x', 'D')`); err != nil {
			return err
		}
		for i, id := range []string{room, "!other:x", "!third:x"} {
			if _, err := roomgen.Generate(ctx, conn, roomgen.Room{
				ID: id, Seed: uint64(i), Server: "x", Events: 120, StateEvery: 4,
			}); err != nil {
				return err
			}
			furnish(t, ctx, conn, id)
		}
		// Purges refuse rooms with partial state.
		_, err = conn.Exec(ctx, `
			DELETE FROM partial_state_events; DELETE FROM partial_state_rooms_servers; DELETE FROM partial_state_rooms; ANALYZE`)
		return err
	}))
	l.use(l.DB, purge.Options{SetWiseFrom: 20, SearchFrom: 30})
	return l
}

// finish purges or deletes the room to the end.
func (l *lab) finish(work string) error {
	if work == "delete" {
		deleted, err := l.Purger.Room(l.Ctx, purge.RoomRequest{Room: room, ServerName: "x", Force: true})
		if err != nil {
			return err
		}
		e := &deleter{ctx: l.Ctx, journal: l.Journal, room: deleted, work: l.Work(room)}
		_, _, err = e.end(25)
		return err
	}
	history, err := l.Purger.History(l.Ctx, purge.HistoryRequest{Room: room, Before: 90, ServerName: "x", DeleteLocal: true})
	if err != nil {
		return err
	}
	job := l.Work(room)
	for range 1000 {
		from, err := history.NextDepth(l.Ctx, math.MinInt64)
		if errors.Is(err, postgres.ErrNotFound) {
			break
		}
		if err != nil {
			return err
		}
		if err := l.InBatch(job, func(b *journal.Batch) (any, error) { return history.Purge(l.Ctx, b, from, 40) }); err != nil {
			return err
		}
	}
	for range 1000 {
		step, err := history.NextStateGroups(l.Ctx)
		if err != nil || step == "" {
			return err
		}
		if err := l.InBatch(job, func(b *journal.Batch) (any, error) {
			return history.CollectStateGroups(l.Ctx, b, step, 50)
		}); err != nil {
			return err
		}
	}
	return errors.New("it does not come to an end")
}

// rows counts all rows of Synapse's tables, read without an index.
func (l *lab) rows() map[string]int {
	l.Exec(`SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off`)
	rows := map[string]int{}
	for table, each := range l.Dump("public") {
		for _, row := range each {
			rows[strings.TrimPrefix(table, "public.")+" "+row]++
		}
	}
	return rows
}

// gone returns the rows that are fewer than before.
func gone(before, after map[string]int) map[string]int {
	fewer := map[string]int{}
	for row, n := range before {
		if n > after[row] {
			fewer[row] = n - after[row]
		}
	}
	return fewer
}

// An index is one with plain columns.
type index struct {
	name, table string
	columns     []string
}

// indexes returns the indexes of the tables that have rows and a purge may use.
func (l *lab) indexes() (all []index) {
	rows, err := l.Conn.Query(l.Ctx, `
		SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, array_agg(a.attname::text ORDER BY k.place)
		FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
		CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
		WHERE c.relnamespace = 'public'::regnamespace AND i.indexprs IS NULL AND i.indpred IS NULL
		GROUP BY i.indexrelid, i.indrelid ORDER BY 1`)
	require.NoError(l.T, err)
	var x index
	_, err = pgx.ForEachRow(rows, []any{&x.name, &x.table, &x.columns}, func() error {
		all = append(all, index{x.name, x.table, slices.Clone(x.columns)})
		return nil
	})
	require.NoError(l.T, err)
	return slices.DeleteFunc(all, func(x index) bool {
		return !slices.Contains(purge.UsedTables(), x.table) || One[int64](l, `SELECT count(*) FROM `+x.table) < 3
	})
}

// One is [storetest.One] on a lab.
func One[T any](l *lab, sql string) T { return storetest.One[T](l.Lab, sql) }

// keys returns the keys of the rows t of the index's table that meet the condition.
func (l *lab) keys(x index, column, condition string) []string {
	return storetest.All[string](l.Lab, fmt.Sprintf(
		`SELECT t.%[1]s::text FROM %[2]s t WHERE t.%[1]s IS NOT NULL AND (%[3]s) GROUP BY 1 ORDER BY 1`, column, x.table, condition))
}

// corrupt makes the index corrupt. It builds another one that maps some keys, and
// gives the file of that one to the index. It returns a description, or "" if the
// index has too few keys.
func (l *lab) corrupt(random *rand.Rand, x index, kind string) string {
	column := x.columns[random.IntN(len(x.columns))]
	if len(l.keys(x, column, "true")) < 2 {
		column = x.columns[0]
	}
	// One key of the room, and any other.
	keys := l.keys(x, column, `to_jsonb(t)::text LIKE '%!room:x%'
		OR to_jsonb(t) ->> 'event_id' IN (SELECT event_id FROM events WHERE room_id = '!room:x')
		OR to_jsonb(t) ->> 'state_group' IN (SELECT id::text FROM state_groups WHERE room_id = '!room:x')`)
	others := l.keys(x, column, "true")
	if len(keys) == 0 || len(others) < 2 {
		return ""
	}
	key := keys[random.IntN(len(keys))]
	others = slices.DeleteFunc(others, func(k string) bool { return k == key })
	keys = []string{key, others[random.IntN(len(others))]}
	if random.IntN(2) == 0 {
		slices.Reverse(keys)
	}
	return l.corruptKeys(x, column, kind, keys[0], keys[1])
}

// corruptKeys makes the index corrupt at two keys of the column. It returns a
// description.
func (l *lab) corruptKeys(x index, column, kind, a, b string) string {
	quote := func(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
	a, b = quote(a), quote(b)
	kindOf := One[string](l, fmt.Sprintf(`SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s`, quote(x.table), quote(column)))
	columns, where := slices.Clone(x.columns), ""
	i := slices.Index(columns, column)
	switch kind {
	case swapped:
		columns[i] = fmt.Sprintf(`(CASE %[1]s WHEN %[2]s THEN %[3]s::%[4]s WHEN %[3]s THEN %[2]s::%[4]s ELSE %[1]s END)`, column, a, b, kindOf)
	case duplicated:
		columns[i] = fmt.Sprintf(`(CASE %[1]s WHEN %[2]s THEN %[3]s::%[4]s ELSE %[1]s END)`, column, a, b, kindOf)
	case missing:
		where = ` WHERE ` + column + ` <> ` + a
	}
	l.Exec(`CREATE INDEX corrupted ON ` + x.table + ` (` + strings.Join(columns, ", ") + `)` + where)
	l.Exec(`SET allow_system_table_mods = on`)
	l.Exec(`
		UPDATE pg_class c SET relfilenode = o.relfilenode
		FROM pg_class o WHERE (c.oid, o.oid) IN ((` + quote(x.name) + `::regclass, 'corrupted'::regclass), ('corrupted'::regclass, ` + quote(x.name) + `::regclass))`)
	l.Exec(`DROP INDEX corrupted`)
	return fmt.Sprintf("%s by %s of %s: %s, %s", kind, column, x.name, a, b)
}

// An operator can make the indexes anew that the error names.
func TestCorruptIndexesAreNoneOfTheBatchesOwnTables(t *testing.T) {
	t.Parallel()
	err := purge.CorruptIndexes("lethe_groups_pkey", "state_groups_state_type_idx")
	require.ErrorIs(t, err, purge.ErrCorrupt)
	require.ErrorContains(t, err, "a search by state_groups_state_type_idx disagrees")
}
