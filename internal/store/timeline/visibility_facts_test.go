package timeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

func (l *lab) facts(question timeline.VisibilityQuery) timeline.VisibilityFacts {
	l.T.Helper()
	return inSnapshot(l, func(ctx context.Context, s *timeline.Snapshot) (timeline.VisibilityFacts, error) {
		return s.VisibilityFacts(ctx, question)
	})
}

// statesOneByOne is what the states of the groups have for the reader, found as
// readers do who ask for one group: along its chain, where the highest wins.
func (l *lab) statesOneByOne(reader string, groups []int64) map[int64]timeline.StateAt {
	l.T.Helper()
	states := map[int64]timeline.StateAt{}
	for _, group := range groups {
		rows, err := l.Conn.Query(l.Ctx, `
			WITH RECURSIVE chain (id) AS (
				SELECT $1::bigint
				UNION
				SELECT e.prev_state_group FROM chain JOIN state_group_edges e ON e.state_group = chain.id
			)
			SELECT DISTINCT ON (type, state_key) type, event_id
			FROM chain JOIN state_groups_state s ON s.state_group = chain.id
			WHERE state_key = '' AND type <> 'm.room.member' OR state_key = $2 AND type = 'm.room.member'
			ORDER BY type, state_key, chain.id DESC`, group, reader)
		require.NoError(l.T, err)
		found := map[string]string{}
		var eventType, id string
		_, err = pgx.ForEachRow(rows, []any{&eventType, &id}, func() error {
			found[eventType] = id
			return nil
		})
		require.NoError(l.T, err)
		var inFull bool
		require.NoError(l.T, l.Conn.QueryRow(l.Ctx, `
			WITH RECURSIVE chain (id) AS (
				SELECT $1::bigint
				UNION
				SELECT e.prev_state_group FROM chain JOIN state_group_edges e ON e.state_group = chain.id
			)
			SELECT EXISTS (
				SELECT FROM chain
				JOIN state_groups_state v ON v.state_group = chain.id AND v.type = 'm.room.history_visibility' AND v.state_key = ''
				JOIN state_groups_state j ON j.state_group = chain.id AND j.type = 'm.room.join_rules' AND j.state_key = ''
				WHERE NOT EXISTS (SELECT FROM state_group_edges e WHERE e.state_group = chain.id))`, group).Scan(&inFull))
		if found["m.room.create"] != "" || inFull {
			states[group] = timeline.StateAt{
				HistoryVisibility: found["m.room.history_visibility"], JoinRules: found["m.room.join_rules"], Member: found["m.room.member"],
			}
		}
	}
	return states
}

// Whatever the relations between the groups, each state is the same as when it is
// read alone.
func TestStatesOfManyGroupsAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	random := rand.New(rand.NewPCG(1, 2))
	keys := [][2]string{
		{"m.room.create", ""},
		{"m.room.history_visibility", ""},
		{"m.room.join_rules", ""},
		{"m.room.member", "@reader:x"},
		{"m.room.member", "@other:x"},
		{"m.room.member", ""},
		{"m.room.history_visibility", "@reader:x"},
	}
	const groups = 400
	for group := int64(1); group <= groups; group++ {
		l.Exec(`INSERT INTO state_groups VALUES ($1, $2, '$e')`, group, room)
		// Mostly the one before, sometimes any, rarely a later one or a second one.
		for n := random.IntN(20); n > 0; n -= 18 {
			prev := group - 1
			if random.IntN(5) == 0 {
				prev = 1 + random.Int64N(groups+5)
			}
			l.Exec(`INSERT INTO state_group_edges VALUES ($1, $2) ON CONFLICT DO NOTHING`, group, prev)
		}
		for i, key := range keys {
			if random.IntN(8) == 0 {
				l.Exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES ($1, $2, $3, $4, $5)`,
					group, room, key[0], key[1], fmt.Sprintf("$%d/%d", group, i))
			}
		}
	}
	whole := 0
	for _, n := range []int{1, 2, 10, 100, groups} {
		asked := []int64{-1, 0, groups + 1, groups + 99}
		for range n {
			asked = append(asked, 1+random.Int64N(groups))
		}
		want := l.statesOneByOne("@reader:x", asked)
		require.Equal(t, want, l.facts(timeline.VisibilityQuery{Room: room, Reader: "@reader:x", Groups: asked}).States)
		whole += len(want)
	}
	require.Greater(t, whole, 200)
}

func TestStatesOnCorpus(t *testing.T) {
	t.Parallel()
	l := &lab{storetest.On(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))}
	for _, room := range storetest.All[string](l.Lab, `SELECT room_id FROM rooms`) {
		groups := storetest.All[int64](l.Lab, `SELECT DISTINCT state_group FROM event_to_state_groups JOIN events USING (event_id) WHERE room_id = $1`, room)
		facts := l.facts(timeline.VisibilityQuery{Room: room, Reader: "@erin:lab.test", Groups: groups})
		require.Len(t, facts.States, len(groups), "no state is unknown")
		require.Equal(t, l.statesOneByOne("@erin:lab.test", groups), facts.States)
		for _, state := range facts.States {
			for _, id := range []string{state.HistoryVisibility, state.JoinRules, state.Member} {
				if id != "" {
					require.JSONEq(t, storetest.One[string](l.Lab, `SELECT json FROM event_json WHERE event_id = $1`, id), string(facts.Events[id]))
				}
			}
		}
	}
}

func TestVisibilityFacts(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.Equal(t, timeline.VisibilityFacts{
		States: map[int64]timeline.StateAt{}, Events: map[string]json.RawMessage{}, Ignored: map[string]bool{}, Erased: map[string]bool{},
	}, l.facts(timeline.VisibilityQuery{Room: room, Reader: "@a:x"}))

	l.insertStates([]int64{1}, map[int64]map[[2]string]string{1: {
		{"m.room.create", ""}: "$create", {"m.room.history_visibility", ""}: "$rejected",
		{"m.room.join_rules", ""}: "$elsewhere", {"m.room.member", "@a:x"}: "$here",
	}})
	for id, in := range map[string]string{"$create": room, "$rejected": room, "$elsewhere": "!other:x", "$here": room, "$old": room, "$refused": room} {
		l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, stream_ordering, processed, outlier)
			VALUES ($1, $2, 't', 1, nextval('events_stream_seq'), true, false)`, id, in)
		l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ($1, $2, '{}', $1 || ', no JSON')`, id, in)
	}
	l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ('$orphan', $1, '{}', '{}')`, room)
	l.Exec(`INSERT INTO rejections VALUES ('$rejected', '', '')`)
	l.Exec(`UPDATE events SET rejection_reason = 'auth' WHERE event_id = '$refused'`)
	l.Exec(`INSERT INTO ignored_users VALUES ('@a:x', '@b:x'), ('@a:x', '@c:x'), ('@b:x', '@d:x')`)
	l.Exec(`INSERT INTO erased_users VALUES ('@a:x'), ('@b:x'), ('@d:x')`)
	l.Exec(`INSERT INTO account_data (user_id, account_data_type, stream_id, content) VALUES
		('@a:x', 'io.element.synapse.admin_client_config', 1, 'no JSON'), ('@a:x', 'other', 2, 'other'),
		('@b:x', 'io.element.synapse.admin_client_config', 3, 'b')`)

	question := timeline.VisibilityQuery{
		Room: room, Reader: "@a:x", Groups: []int64{1, 1, 404}, Senders: []string{"@b:x", "@d:x", "@b:x", "", "@e:x"},
		Replaced: []string{"$old", "$old", "$elsewhere", "$rejected", "$refused", "$orphan", "$gone", "", "$old\x00", "\xff"},
	}
	want := timeline.VisibilityFacts{
		States:  map[int64]timeline.StateAt{1: {HistoryVisibility: "$rejected", JoinRules: "$elsewhere", Member: "$here"}},
		Events:  map[string]json.RawMessage{"$here": json.RawMessage("$here, no JSON"), "$old": json.RawMessage("$old, no JSON")},
		Ignored: map[string]bool{"@b:x": true},
		Erased:  map[string]bool{"@b:x": true, "@d:x": true},
	}
	require.Equal(t, want, l.facts(question))
	question.AdminConfig, want.AdminConfig = true, json.RawMessage("no JSON")
	require.Equal(t, want, l.facts(question))
	question.Reader = "@nobody:x"
	require.Nil(t, l.facts(question).AdminConfig)

	// If it is unknown whom the reader ignores, no event may be shown.
	l.Exec(`DROP TABLE erased_users`)
	err := timeline.Read(l.Ctx, l.DB, func(ctx context.Context, s *timeline.Snapshot) error {
		_, err := s.VisibilityFacts(ctx, question)
		return err
	})
	require.ErrorContains(t, err, "read who may see the events")
}
