package shutdown_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/roomgen"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
)

// TestStateMatchesTheModel removes the members of generated rooms in some order, and
// compares the state after each event with a map that follows the rules.
func TestStateMatchesTheModel(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	hall := h.create(h.begin("!x:x"), "@host:x", "Hall")
	var seed uint64
	rapid.Check(t, func(t *rapid.T) {
		seed++
		at := *h
		at.t = t
		at.stateIsTheModels(t, seed, hall)
	})
}

func (h *house) stateIsTheModels(t *rapid.T, seed uint64, hall string) {
	summary, err := roomgen.Generate(h.ctx, h.conn, roomgen.Room{
		Server: h.server, Seed: seed, Events: rapid.IntRange(20, 40).Draw(t, "events"),
		StateEvery: rapid.IntRange(3, 10).Draw(t, "state every"), RemoteMembers: -1,
		LocalMembers: rapid.IntRange(1, 5).Draw(t, "members"),
	})
	require.NoError(t, err)
	room := summary.Room

	// Some of its older events are extremities too, of states of their own.
	h.exec(`
		INSERT INTO event_forward_extremities (event_id, room_id)
		SELECT event_id, $1 FROM (SELECT event_id FROM events WHERE room_id = $1 ORDER BY md5(event_id) LIMIT $2) AS e
		WHERE event_id NOT IN (SELECT event_id FROM event_forward_extremities WHERE room_id = $1)`,
		room, rapid.SampledFrom([]int{0, 0, 1, 5, 14}).Draw(t, "more extremities"))
	// Some of its members were only invited, and its auth chains may be known in part.
	h.exec(`
		UPDATE room_memberships SET membership = 'invite' WHERE room_id = $1 AND user_id > $2`,
		room, rapid.SampledFrom([]string{"@zz", "@c", "@e"}).Draw(t, "invited after"))
	for _, table := range []string{"local_current_membership", "current_state_events"} {
		h.exec(`UPDATE `+table+` t SET membership = m.membership FROM room_memberships m WHERE m.event_id = t.event_id AND t.room_id = $1`, room)
	}
	if rapid.Bool().Draw(t, "auth chains") {
		h.exec(`UPDATE rooms SET has_auth_chain_index = true WHERE room_id = $1`, room)
		if rapid.Bool().Draw(t, "complete") {
			h.exec(`
				INSERT INTO event_auth_chains
				SELECT event_id, nextval('event_auth_chain_id'), 1 FROM state_events WHERE room_id = $1`, room)
		}
	}

	state, before := h.currentState(room), h.newest()
	tips := all[string](h, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, room)
	members := rapid.Permutation(h.members(room)).Draw(t, "order")
	joined := map[string]bool{}
	for _, m := range members {
		joined[m.UserID] = m.Membership == "join"
	}
	keep := rapid.IntRange(0, len(members)).Draw(t, "stay")
	leaving := members[keep:]
	newRoom := rapid.SampledFrom([]string{"", hall}).Draw(t, "new room")
	batch := h.begin(room)
	for part := range slices.Chunk(leaving, rapid.IntRange(1, 3).Draw(t, "at a time")) {
		require.Empty(t, h.remove(batch, newRoom, part...).Failed)
	}
	require.NoError(t, journal.New(h.store).EndJob(h.ctx, batch.Run, journal.Complete, ""))
	if len(leaving) > 0 {
		h.whole(before)
	}

	departed := false
	for _, e := range h.eventsAfter(before) {
		if e.Room != room {
			continue
		}
		prevs := all[string](h, `SELECT prev_event_id FROM event_edges WHERE event_id = $1`, e.ID)
		require.Len(t, prevs, min(len(tips), 10))
		require.Subset(t, tips, prevs)
		tips = slices.DeleteFunc(tips, func(id string) bool { return slices.Contains(prevs, id) })
		tips = append(tips, e.ID)
		require.Equal(t, one[int64](h, `SELECT max(depth) + 1 FROM events WHERE event_id = ANY ($1)`, prevs), e.Depth)

		state["m.room.member "+e.Sender] = e.ID
		require.Equal(t, state, h.stateOf(h.groupOf(e.ID)))
		delete(joined, e.Sender)
		if departed = departed || !slices.Contains(slices.Collect(maps.Values(joined)), true); departed {
			require.NotEmpty(t, all[string](h, `
				SELECT prev_event_id FROM current_state_delta_stream
				WHERE room_id = $1 AND event_id IS NULL AND type = 'm.room.create'`, room))
		}
	}
	require.ElementsMatch(t, tips, all[string](h, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, room))
	if departed {
		state = map[string]string{}
	}
	require.Equal(t, state, h.currentState(room))
	require.ElementsMatch(t, ids(members[:keep]), ids(h.members(room)))
	inHall := ids(h.members(hall))
	for _, m := range leaving {
		if newRoom != "" && m.Membership == "join" {
			require.Contains(t, inHall, m.UserID)
		}
	}
	require.Equal(t, all[string](h, `
		SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'leave'))
		FROM current_state_events WHERE room_id = $1`, hall), all[string](h, `
		SELECT concat_ws(' ', current_state_events, joined_members, left_members) FROM room_stats_current WHERE room_id = $1`, hall))
	if !departed && len(leaving) > 0 {
		require.Equal(t, []string{fmt.Sprint(len(leaving))}, all[string](h, `
			SELECT left_members::text FROM room_stats_current WHERE room_id = $1`, room))
	}
}

func TestLongChainsOfStateGroupsEndInOneThatIsWhole(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	tip := one[string](h, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, room)
	prev := h.groupOf(tip)
	hops := one[int64](h, `
		WITH RECURSIVE chain (state_group, hops) AS (
			SELECT $1::bigint, 1
			UNION ALL
			SELECT prev_state_group, hops + 1 FROM chain JOIN state_group_edges USING (state_group)
		) SELECT max(hops)::bigint FROM chain`, prev)
	// As many groups as leave room for two more.
	h.exec(`
		WITH made AS (
			INSERT INTO state_groups SELECT nextval('state_group_id_seq'), $1, $2 FROM generate_series(1, $3::int) RETURNING id
		)
		INSERT INTO state_group_edges SELECT id, coalesce(lag(id) OVER (ORDER BY id), $4) FROM made`, room, tip, 98-hops, prev)
	h.exec(`UPDATE event_to_state_groups SET state_group = (SELECT max(id) FROM state_groups) WHERE event_id = $1`, tip)
	h.exec(`INSERT INTO state_groups_pending_deletion (state_group, insertion_ts) SELECT max(id), 0 FROM state_groups`)
	state := h.currentState(room)
	require.Equal(t, state, h.stateOf(h.groupOf(tip)))

	before := h.newest()
	h.remove(h.begin(room), "", h.members(room)...)
	var whole []bool
	for _, e := range h.eventsAfter(before) {
		state["m.room.member "+e.Sender] = e.ID
		group := h.groupOf(e.ID)
		require.Equal(t, state, h.stateOf(group))
		whole = append(whole, len(all[int64](h, `SELECT prev_state_group FROM state_group_edges WHERE state_group = $1`, group)) == 0)
	}
	require.Equal(t, []bool{false, false, true, false}, whole)
	require.Zero(t, one[int](h, `SELECT count(*) FROM state_groups_pending_deletion`), "a group in use is not for deletion")
}

func TestDepthsStayWithinWhatAnEventMayHold(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	for i, c := range []struct{ last, want int64 }{
		{1<<63 - 1, 1<<53 - 1}, {1<<53 - 1, 1<<53 - 1}, {1<<53 - 2, 1<<53 - 1}, {-1 << 63, 1}, {-1, 1}, {0, 1},
	} {
		room := h.generate(uint64(i), -1)
		h.exec(`UPDATE events SET depth = $2 WHERE event_id IN (SELECT event_id FROM event_forward_extremities WHERE room_id = $1)`, room, c.last)
		before := h.newest()
		h.remove(h.begin(room), "", h.members(room)[0])
		require.Equal(t, c.want, h.eventsAfter(before)[0].Depth)
	}
}
