package admin_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/storetest"
)

// What takes longer than an operator waits is not counted, which is no error.
func TestRoomThatTakesTooLongIsUnknown(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.API)
	l.Chain(storetest.Room, "a", 9, 0)
	now := time.Now()
	l.Exec(`UPDATE events SET origin_server_ts = $1`, now.UnixMilli())
	people, err := l.Admin.RoomPeople(l.Ctx, storetest.Room, "x", 5)
	require.NoError(t, err)
	require.Equal(t, &admin.RoomPeople{Memberships: []admin.Membership{}, Joined: []string{}}, people)
	months, err := l.Admin.RoomMonths(l.Ctx, storetest.Room, now.AddDate(-60, 0, 0), now)
	require.NoError(t, err)
	require.NotEmpty(t, months)
	for _, odd := range []string{"", "!\x00", "!\xff"} {
		months, err := l.Admin.RoomMonths(l.Ctx, odd, now, now)
		require.NoError(t, err)
		require.Equal(t, []admin.Month{}, months)
	}

	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(l.Ctx)) }()
	_, err = tx.Exec(l.Ctx, `LOCK TABLE events, current_state_events`)
	require.NoError(t, err)
	begun := time.Now()
	people, err = l.Admin.RoomPeople(l.Ctx, storetest.Room, "x", 5)
	require.NoError(t, err)
	require.Nil(t, people)
	months, err = l.Admin.RoomMonths(l.Ctx, storetest.Room, now, now)
	require.NoError(t, err)
	require.Nil(t, months)
	require.Less(t, time.Since(begun), 20*time.Second)

	ended, cancel := context.WithCancel(l.Ctx)
	cancel()
	_, err = l.Admin.RoomMonths(ended, storetest.Room, now, now)
	require.ErrorIs(t, err, context.Canceled)
}
