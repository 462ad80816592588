package purge_test

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// collect sorts and deletes state groups until there is nothing left to do.
func (l *lab) collect(work storetest.Work, size int) (deleted int64) {
	l.T.Helper()
	history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(work.Room, 0))
	require.NoError(l.T, err)
	for range 1000 {
		step, err := history.NextStateGroups(l.Ctx)
		require.NoError(l.T, err)
		if step == purge.StateGroupsCollected {
			return deleted
		}
		done, err := l.collectBatch(step, work, size)
		require.NoError(l.T, err)
		require.Positive(l.T, done.Checked)
		require.LessOrEqual(l.T, done.Checked, int64(size))
		deleted += done.Deleted
	}
	require.Fail(l.T, "there is no end to it")
	return 0
}

func (l *lab) groups() []int64 {
	l.T.Helper()
	return storetest.All[int64](l.Lab, `SELECT id FROM state_groups ORDER BY id`)
}

// A group is a state group: what it sets, over its predecessor if it has one.
type group struct {
	room string
	prev int64
	sets map[string]string // event ids by state key
	used bool              // by an event
}

func (l *lab) insertGroups(groups map[int64]group) {
	l.T.Helper()
	for id, g := range groups {
		l.Exec(`INSERT INTO state_groups VALUES ($1, $2, '$e')`, id, g.room)
		if g.prev != 0 {
			l.Exec(`INSERT INTO state_group_edges VALUES ($1, $2)`, id, g.prev)
		}
		for key, event := range g.sets {
			l.Exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
				VALUES ($1, $2, 't', $3, $4)`, id, g.room, key, event)
		}
		if g.used {
			l.Exec(`INSERT INTO event_to_state_groups VALUES ('$used' || $1::bigint, $1)`, id)
		}
	}
}

func (l *lab) suspect(room string, groups ...int64) {
	l.T.Helper()
	l.Exec(`INSERT INTO lethe.state_group_candidates SELECT $1, unnest($2::bigint[])`, room, groups)
}

// states resolves every group's state, as readers do: along its chain, where
// the highest number wins.
func (l *lab) states() map[int64]map[string]string {
	l.T.Helper()
	rows, err := l.Conn.Query(l.Ctx, `
		WITH RECURSIVE chain (root, id) AS (
			SELECT id, id FROM state_groups
			UNION
			SELECT root, e.prev_state_group FROM chain JOIN state_group_edges e ON e.state_group = chain.id
		)
		SELECT DISTINCT ON (root, state_key) root, state_key, event_id
		FROM chain JOIN state_groups_state s ON s.state_group = chain.id
		ORDER BY root, state_key, chain.id DESC`)
	require.NoError(l.T, err)
	states := map[int64]map[string]string{}
	var root int64
	var key, event string
	_, err = pgx.ForEachRow(rows, []any{&root, &key, &event}, func() error {
		if states[root] == nil {
			states[root] = map[string]string{}
		}
		states[root][key] = event
		return nil
	})
	require.NoError(l.T, err)
	return states
}

type sets = map[string]string

// A room's groups in every relation: those that stay are used or none of its
// business.
var family = map[int64]group{
	1: {room: room, sets: sets{"a": "$1", "b": "$1"}},
	2: {room: room, prev: 1, sets: sets{"a": "$2"}}, // the candidate
	3: {room: room, prev: 2, sets: sets{"b": "$3"}, used: true},
	4: {room: room, prev: 2, sets: sets{"c": "$4"}}, // a branch that was never used,
	5: {room: room, prev: 4, sets: sets{"a": "$5"}}, // and its end
	6: {room: room, prev: 3, sets: sets{"c": "$6"}},
	7: {room: room, prev: 6, sets: sets{"a": "$7"}, used: true}, // beyond an unused one beyond a used one
	8: {room: room, sets: sets{"a": "$8"}},                      // unused, but in no relation
	9: {room: room, prev: 1, used: true},                        // sets nothing itself

	20: {room: "!other:x", sets: sets{"a": "$20"}}, // unused, but not ours
	21: {room: "!other:x", prev: 2, sets: sets{"d": "$21"}},
	22: {room: room, prev: 20, sets: sets{"b": "$22"}}, // a candidate

	30: {room: room, prev: 32, sets: sets{"a": "$30"}}, // a candidate on a chain that bites its tail
	31: {room: room, prev: 30, sets: sets{"b": "$31"}},
	32: {room: room, prev: 31},
	33: {room: room, prev: 31, sets: sets{"c": "$33"}, used: true},
	34: {room: room, prev: 34}, // a candidate on its own tail
}

func TestUnusedStateGroupsAreDeletedAndOthersKeepTheirState(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3, 1000} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.insertGroups(family)
			l.suspect(room, 2, 3, 22, 30, 34, 404)
			l.Exec(`INSERT INTO state_groups_pending_deletion (state_group, insertion_ts) VALUES (4, 0), (8, 0)`)
			before := l.states()

			// 2 stays for 3 and 21, and 1 for 2 and 9: each sets more than it
			// takes to say so once.
			stay := []int64{1, 2, 3, 6, 7, 8, 9, 20, 21, 33}
			require.EqualValues(t, len(family)-len(stay), l.collect(l.Work(room), size))
			require.Equal(t, stay, l.groups())
			maps.DeleteFunc(before, func(id int64, _ map[string]string) bool { return !slices.Contains(stay, id) })
			require.Equal(t, before, l.states())
			require.Equal(t, []int64{8}, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_pending_deletion`))
			require.Subset(t, stay, storetest.All[int64](l.Lab, `SELECT state_group FROM state_groups_state`))
			require.Equal(t, []int64{1, 1, 2, 2, 3, 6}, storetest.All[int64](l.Lab, `SELECT prev_state_group FROM state_group_edges ORDER BY 1`),
				"the difference to one that stays is one still")
		})
	}
}

// Of a chain of any length the first remaining group takes over the entries that it
// does not have itself, and no more.
func TestFirstGroupThatStaysTakesDifferencesOver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(map[int64]group{
		1: {room: room, sets: sets{"a": "$1"}}, 2: {room: room, prev: 1, sets: sets{"b": "$2"}},
		3: {room: room, prev: 2, sets: sets{"a": "$3"}}, 4: {room: room, prev: 3, sets: sets{"c": "$4"}, used: true},
	})
	l.suspect(room, 1, 2, 3)
	batch := l.Work(room)
	_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
	require.NoError(t, err)
	for _, written := range []int64{1, 1, 0} {
		done, err := l.collectBatch(purge.DeleteStateGroups, batch, 1)
		require.NoError(t, err)
		require.Equal(t, purge.StateGroupBatch{Checked: 1, Deleted: 1, Written: written}, done)
	}
	require.Equal(t, map[int64]map[string]string{4: {"a": "$3", "b": "$2", "c": "$4"}}, l.states())
}

// If several groups of the chain have an entry, the nearest of them counts, although all go
// in one batch.
func TestFirstGroupThatStaysTakesTheNearestEntry(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(map[int64]group{
		1: {room: room, sets: sets{"a": "$1"}}, 2: {room: room, prev: 1, sets: sets{"a": "$2"}},
		3: {room: room, prev: 2, sets: sets{"b": "$3"}, used: true},
	})
	l.suspect(room, 1, 2)
	batch := l.Work(room)
	_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
	require.NoError(t, err)
	done, err := l.collectBatch(purge.DeleteStateGroups, batch, 9)
	require.NoError(t, err)
	require.Equal(t, purge.StateGroupBatch{Checked: 2, Deleted: 2, Written: 1}, done)
	require.Equal(t, map[int64]map[string]string{3: {"a": "$2", "b": "$3"}}, l.states())
}

// Groups that have most entries themselves take no more rows without the group that
// they follow, so it is deleted.
func TestSharedStateGroupIsDeletedWhereThatCostsNothing(t *testing.T) {
	t.Parallel()
	for costs, sharedSets := range map[bool]sets{
		false: {"a": "$2", "b": "$2", "c": "$2"}, // two rows are taken over, and three go
		true:  {"c": "$2", "d": "$2", "e": "$2"}, // six are taken over
	} {
		l := setup(t)
		l.insertGroups(map[int64]group{
			1: {room: room, sets: sets{"z": "$1"}},
			2: {room: room, prev: 1, sets: sharedSets},
			3: {room: room, prev: 2, sets: sets{"a": "$3", "b": "$3"}, used: true},
			4: {room: room, prev: 2, sets: sets{"a": "$4", "b": "$4"}, used: true},
		})
		l.suspect(room, 2)
		before := l.states()
		rows := storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups_state`)
		l.collect(l.Work(room), 9)
		require.Equal(t, costs, slices.Contains(l.groups(), 2))
		require.LessOrEqual(t, storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups_state`), rows)
		require.Equal(t, before[3], l.states()[3])
		require.Equal(t, before[4], l.states()[4])
	}
}

func TestStateGroupBeingPersistedStays(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(map[int64]group{1: {room: room}, 2: {room: room, prev: 1}})
	l.Exec(`INSERT INTO state_groups_persisting VALUES (1, 'master')`)
	l.suspect(room, 1, 2)
	l.collect(l.Work(room), 9)
	require.Equal(t, []int64{1}, l.groups())
}

func TestStateGroupPersistedAfterClassificationIsSpared(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(map[int64]group{1: {room: room}, 2: {room: room, prev: 1}})
	l.suspect(room, 1, 2)
	batch := l.Work(room)
	_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
	require.NoError(t, err)
	l.Exec(`INSERT INTO state_groups_persisting VALUES (1, 'master')`)
	done, err := l.collectBatch(purge.DeleteStateGroups, batch, 9)
	require.NoError(t, err)
	require.Equal(t, purge.StateGroupBatch{Checked: 2, Deleted: 1}, done)
	require.Equal(t, []int64{1}, l.groups())
}

func TestStateGroupTakenIntoUseAfterClassificationIsSpared(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(map[int64]group{
		1: {room: room, sets: sets{"a": "$1"}}, 2: {room: room, prev: 1, sets: sets{"b": "$2"}}, 3: {room: room, prev: 2},
	})
	l.suspect(room, 1, 2, 3)
	before := l.states()
	batch := l.Work(room)
	_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
	require.NoError(t, err)

	// As a writer does: first he locks the group.
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`SELECT FROM state_groups WHERE id = 2 FOR SHARE`)
	l.Exec(`INSERT INTO event_to_state_groups VALUES ('$new', 2)`)
	type result struct {
		done purge.StateGroupBatch
		err  error
	}
	results := make(chan result, 1)
	go func() {
		done, err := l.collectBatch(purge.DeleteStateGroups, batch, 9)
		results <- result{done, err}
	}()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	require.Equal(t, result{done: purge.StateGroupBatch{Checked: 3, Deleted: 2, Written: 1}}, <-results)
	require.Equal(t, []int64{2}, l.groups())
	require.Equal(t, before[2], l.states()[2])
}

func TestStateGroupsLeftByAFailedJobAreTheNextOnes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 5, 0)
	failed := l.Work(room)
	_, err := l.PurgeBatch(failed, 4, 9)
	require.NoError(t, err)
	require.NoError(t, l.Journal.EndJob(l.Ctx, failed.Run, journal.Failed, "why"))
	require.Equal(t, []int64{1, 2, 3, 4, 5}, l.groups())

	require.NoError(t, l.purge(storetest.PurgeRequest(room, 4), 9))
	require.Equal(t, []int64{4, 5}, l.groups())
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.state_group_candidates`))
}

func TestStateGroupsOfAFencedRunStay(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.insertGroups(family)
	l.suspect(room, 2)
	batch := l.Work(room)
	_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
	require.NoError(t, err)
	_, err = l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	l.RequireUnchanged(func() {
		_, err := l.collectBatch(purge.ClassifyStateGroups, batch, 9)
		require.ErrorIs(t, err, journal.ErrFenced)
		_, err = l.collectBatch(purge.DeleteStateGroups, batch, 9)
		require.ErrorIs(t, err, journal.ErrFenced)
	})
}
