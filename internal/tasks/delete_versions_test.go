package tasks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// A versionCase is a room's version, the membership that its local users have, and
// whether the room's delete is forced.
type versionCase struct {
	version    any
	supported  bool
	membership string
	force      bool
}

func versionCases() (cases []versionCase) {
	versions := []any{nil, "", "0", "13", "org.matrix.msc3757.11"}
	unsupported := len(versions)
	for number := 1; number <= 12; number++ {
		versions = append(versions, fmt.Sprint(number))
	}
	for i, version := range versions {
		for _, membership := range []string{"join", "invite", "knock"} {
			for _, force := range []bool{false, true} {
				cases = append(cases, versionCase{version, i >= unsupported, membership, force})
			}
		}
	}
	return cases
}

// TestRoomsOfAllVersionsAreDeleted: of each version, a room is deleted unless users
// are joined who cannot leave it, and the delete is not forced. Such a delete writes
// nothing.
func TestRoomsOfAllVersionsAreDeleted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	cases := versionCases()
	users, ids := make([][]string, len(cases)), make([]string, len(cases))
	name := func(i int) string { return fmt.Sprintf("!%d:x", i) }
	for i, c := range cases {
		users[i] = l.furnish(name(i), 2)
		l.Exec(`UPDATE rooms SET room_version = $2 WHERE room_id = $1`, name(i), c.version)
		for _, table := range []string{"local_current_membership", "current_state_events", "room_memberships"} {
			l.Exec(`UPDATE `+table+` SET membership = $2 WHERE room_id = $1 AND membership = 'join'`, name(i), c.membership)
		}
	}
	l.Exec(`ANALYZE`)
	l.work(WorkerOptions{})
	for i, c := range cases {
		ids[i] = l.delete(name(i), func(d *DeleteRoom) { d.ForcePurge, d.Block, d.NewRoomUser = c.force, true, "@new:x" })
	}
	for i, c := range cases {
		status, done := l.deleteEnds(ids[i])
		stay := !c.supported && c.membership == "join"
		want := shutdown.Result{KickedUsers: users[i]}
		if stay {
			want = shutdown.Result{FailedToKickUsers: users[i]}
		}
		if stay && !c.force {
			require.Equal(t, journal.Failed, status.State, c)
			require.True(t, strings.HasPrefix(status.Error, "400: no user can leave the room: room version "), status.Error)
			require.Equal(t, want.WithLists(), done, c)
			require.Equal(t, users[i], l.joined(name(i)), c)
			require.Empty(t, l.blocker(name(i)), c)
			l.whole(name(i))
			continue
		}
		require.Equal(t, journal.Complete, status.State, "%v: %s", c, status.Error)
		require.NotNil(t, done.NewRoomID, c)
		want.NewRoomID = done.NewRoomID
		require.Equal(t, want.WithLists(), done, c)
		require.NotEmpty(t, l.blocker(name(i)), c)
		l.gone(name(i))
	}
	// No room replaces one whose delete has failed.
	created := storetest.All[int](l.Lab, `SELECT count(*) FROM rooms WHERE creator = '@new:x'`)[0]
	require.Equal(t, len(cases)-5, created, "five deletes are refused")
}

// TestRoomWithRemoteMembersWithoutAKey: without a key to sign events with, nobody can
// leave a room with remote members. A forced delete names their servers.
func TestRoomWithRemoteMembersWithoutAKey(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: room, Server: "x", Events: 40, LocalMembers: 2, RemoteMembers: 2})
	require.NoError(t, err)
	users := l.joined(room)
	require.Len(t, users, 2)
	want := shutdown.Result{FailedToKickUsers: users, RemoteServersNotTold: []string{"far.example"}}.WithLists()
	l.work(WorkerOptions{})

	status, done := l.deleteEnds(l.delete(room, func(d *DeleteRoom) { d.Block = true }))
	require.Equal(t, journal.Failed, status.State)
	require.True(t, strings.HasPrefix(status.Error, "400: "), status.Error)
	require.ErrorContains(t, shutdown.ErrUnsigned, strings.TrimPrefix(status.Error, "400: no user can leave the room: "))
	require.Equal(t, want, done)
	require.Empty(t, l.blocker(room))
	l.whole(room)

	// A shutdown alone is refused as well.
	status, done = l.deleteEnds(l.delete(room, func(d *DeleteRoom) { d.Purge = false }))
	require.Equal(t, journal.Failed, status.State)
	require.Equal(t, want, done)
	l.whole(room)

	status, done = l.deleteEnds(l.delete(room, func(d *DeleteRoom) { d.ForcePurge = true }))
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, want, done)
	l.gone(room)
}
