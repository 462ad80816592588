package timeline_test

import (
	"context"
	"testing"

	"lethe/internal/store/timeline"

	"github.com/stretchr/testify/require"
)

// insertStates writes state groups, each a difference to the one before it in
// the given chain, and what each sets: event ids by type and state key.
func (l *lab) insertStates(chain []int64, set map[int64]map[[2]string]string) {
	l.T.Helper()
	for i, group := range chain {
		l.Exec(`INSERT INTO state_groups VALUES ($1, $2, '$e')`, group, room)
		if i > 0 {
			l.Exec(`INSERT INTO state_group_edges VALUES ($1, $2)`, group, chain[i-1])
		}
		for key, event := range set[group] {
			l.Exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
				VALUES ($1, $2, $3, $4, $5)`, group, room, key[0], key[1], event)
		}
	}
}

// inSnapshot reads something in a Snapshot.
func inSnapshot[T any](l *lab, read func(context.Context, *timeline.Snapshot) (T, error)) (value T) {
	l.T.Helper()
	require.NoError(l.T, timeline.Read(l.Ctx, l.DB, func(ctx context.Context, s *timeline.Snapshot) (err error) {
		value, err = read(ctx, s)
		return err
	}))
	return value
}

func TestMembersAt(t *testing.T) {
	t.Parallel()
	l := setup(t)
	member := func(user string) [2]string { return [2]string{"m.room.member", user} }
	l.insertStates([]int64{1, 2, 3}, map[int64]map[[2]string]string{
		1: {member("@a:x"): "$a1", member("@b:x"): "$b1", member("@B:x"): "$B1", {"m.room.name", "@c:x"}: "$name"},
		2: {member("@a:x"): "$a2"},
		3: {member("@b:x"): "$b3", member("@d:x"): "$d3"},
	})
	// A chain as long as they get, on which hardly anything changes.
	long := []int64{}
	for group := int64(100); group < 200; group++ {
		long = append(long, group)
	}
	l.insertStates(long, map[int64]map[[2]string]string{100: {member("@a:x"): "$first"}, 150: {member("@b:x"): "$middle"}})
	// One that bites its tail: the highest number wins.
	l.insertStates([]int64{300, 301}, map[int64]map[[2]string]string{300: {member("@a:x"): "$300"}, 301: {member("@a:x"): "$301"}})
	l.Exec(`INSERT INTO state_group_edges VALUES (300, 301)`)
	// Groups with about as many members as are read of one at most, and with more,
	// and a difference to each.
	for i, n := range []int64{99, 100, 101, 1000} {
		group := int64(400 + 2*i)
		l.insertStates([]int64{group, group + 1}, map[int64]map[[2]string]string{group + 1: {member("@m7:x"): "$new"}})
		l.Exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
			SELECT $1, $2, 'm.room.member', '@m' || n || ':x', '$m' || n FROM generate_series(1, $3::bigint) n`, group, room, n)
	}

	everybody := []string{"@d:x", "@c:x", "@b:x", "@a:x", "@B:x", "@a:x"}
	for _, c := range []struct {
		group int64
		users []string
		want  []string
	}{
		{3, everybody, []string{"$B1", "$a2", "$b3", "$d3"}},
		{2, everybody, []string{"$B1", "$a2", "$b1"}},
		{1, everybody, []string{"$B1", "$a1", "$b1"}},
		{3, []string{"@b:x"}, []string{"$b3"}},
		{3, []string{"@c:x", "", "@A:x", "@a:x "}, []string{}},
		{3, nil, []string{}},
		{199, everybody, []string{"$first", "$middle"}},
		{149, everybody, []string{"$first"}},
		{300, everybody, []string{"$301"}},
		{99, everybody, []string{}},
		{400, []string{"@m1:x", "@m7:x", "@m99:x", "@m100:x"}, []string{"$m1", "$m7", "$m99"}},
		{401, []string{"@m1:x", "@m7:x", "@m99:x", "@m100:x"}, []string{"$m1", "$new", "$m99"}},
		{403, []string{"@m1:x", "@m7:x", "@m100:x", "@m101:x"}, []string{"$m100", "$m1", "$new"}},
		{405, []string{"@m1:x", "@m7:x", "@m100:x", "@m101:x"}, []string{"$m100", "$m101", "$m1", "$new"}},
		{406, []string{"@m1000:x", "@m7:x", "@m0:x", "@m999:x"}, []string{"$m1000", "$m7", "$m999"}},
		{407, []string{"@m1000:x", "@m7:x", "@m0:x", "@m999:x"}, []string{"$m1000", "$new", "$m999"}},
	} {
		got := inSnapshot(l, func(ctx context.Context, s *timeline.Snapshot) ([]string, error) {
			return s.MembersAt(ctx, c.group, c.users)
		})
		require.Equal(t, c.want, got, "group %d", c.group)
	}
}
