package operator_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/store/storetest"
)

// found are the ids of the rooms that a search finds, page by page.
func (l *lab) found(text string) (ids []string) {
	l.T.Helper()
	from := ""
	for range 50 {
		page := get[operator.Rooms](l, "GET", "/rooms?limit=2&search="+url.QueryEscape(text)+"&from="+from, "")
		for _, room := range page.Rooms {
			ids = append(ids, room.Room)
		}
		if page.Next == nil {
			return ids
		}
		from = *page.Next
	}
	l.T.Fatal("the list has no end")
	return nil
}

func TestSearchOfRooms(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	l.Exec(`
		INSERT INTO rooms (room_id) SELECT '!n' || n || ':x' FROM generate_series(1, 7) n;
		INSERT INTO room_stats_state (room_id, name, canonical_alias) VALUES
			('!n1:x', 'Kitchen 100%', '#one:x'), ('!n2:x', 'KITCHEN', NULL), ('!n3:x', 'größe', NULL), ('!n4:x', 'ÄRGER', NULL), ('!n5:x', NULL, NULL);
		INSERT INTO room_aliases (room_alias, room_id) VALUES ('#Second:x', '!n6:x'), ('#kitchen-too:x', '!n6:x');
		INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members, banned_members, local_users_in_room, completed_delta_stream_id)
			VALUES ('!n2:x', 1, 5, 0, 0, 0, 1, 1), ('!n6:x', 1, 9, 0, 0, 0, 1, 1)`)
	for text, want := range map[string][]string{
		"kitchen": {"!n6:x", "!n2:x", "!n1:x"}, "Kitchen ": {"!n1:x"}, "100%": {"!n1:x"}, "%": {"!n1:x"}, "_": nil, "GRÖSSE": nil, "GRÖßE": {"!n3:x"},
		"#one": {"!n1:x"}, "second": {"!n6:x"}, "!n7:x": {"!n7:x"}, "n7": {"!n7:x"}, room: {room}, "none": nil, `\`: nil, "'; --": nil,
	} {
		require.Equal(t, want, l.found(text), text)
	}
	require.Len(t, l.found(":x"), 8)
	one := get[operator.Rooms](l, "GET", "/rooms?search=!room", "").Rooms[0]
	require.EqualValues(t, 9, one.Events)
	require.True(t, one.Exact)
	require.Positive(t, one.EstimatedBytes)
	for _, query := range []string{"search=%00", "search=" + strings.Repeat("a", 256), "search=a&from=odd", "search=a&limit=0"} {
		require.Equal(t, 400, l.do("GET", "/rooms?"+query, "").status, query)
	}
}

func TestRoomHasMembersAndMonths(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	now := time.Now().UTC()
	l.Exec(`UPDATE events SET origin_server_ts = 0`)
	l.Exec(`UPDATE events SET origin_server_ts = $1 WHERE event_id IN ('$a1', '$a2')`, now.UnixMilli())
	l.Exec(`UPDATE events SET origin_server_ts = $1 WHERE event_id = '$a3'`, now.AddDate(-1, 0, 0).UnixMilli())
	l.Exec(`UPDATE events SET origin_server_ts = 9223372036854775807 WHERE event_id = '$a4'`)
	l.Exec(`UPDATE events SET origin_server_ts = -9223372036854775808 WHERE event_id = '$a5'`)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)
		SELECT '$m' || n, $1, 'm.room.member', '@u' || lpad(n::text, 3, '0') || CASE WHEN n <= 60 THEN ':x' ELSE ':other:8448' END, CASE n WHEN 1 THEN 'ban' ELSE 'join' END
		FROM generate_series(1, 64) n`, room)
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership)
		SELECT room_id, state_key, event_id, membership FROM current_state_events WHERE state_key LIKE '%:x' AND room_id = $1`, room)
	l.Exec(`INSERT INTO room_stats_state (room_id, name) VALUES ($1, 'Name')`, room)
	r := get[operator.Room](l, "GET", "/rooms/"+room, "")
	require.EqualValues(t, 9, r.Events)
	require.Equal(t, "Name", r.Name)
	require.Equal(t, []operator.Membership{{Membership: "ban", Local: 1}, {Membership: "join", Local: 59, Remote: 4}}, r.Members.Memberships)
	require.Len(t, r.Members.Joined, 50)
	require.Equal(t, "@u002:x", r.Members.Joined[0])
	month := func(t time.Time) int64 { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMilli() }
	require.Equal(t, []operator.Month{{Begin: month(now.AddDate(-1, 0, 0)), Events: 1}, {Begin: month(now), Events: 2}}, *r.Months)
}

func TestBlock(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const path = "/blocks/" + room
	l.refused(400, "Missing params: ['block']", "PUT", path, "{}")
	l.refused(400, "wrong type", "PUT", path, `{"block":"yes"}`)
	l.refused(400, "room is not a legal room ID", "PUT", "/blocks/room", `{"block":true}`)
	l.Chain(room, "a", 3, 0)
	for range 2 {
		require.Equal(t, operator.RoomBlock{Room: room, Block: true}, get[operator.RoomBlock](l, "PUT", path, `{"block":true}`))
	}
	require.Equal(t, admin, get[operator.Room](l, "GET", "/rooms/"+room, "").BlockedBy)
	for range 2 {
		get[operator.RoomBlock](l, "PUT", path, `{"block":false}`)
	}
	require.Empty(t, get[operator.Room](l, "GET", "/rooms/"+room, "").BlockedBy)
	require.Equal(t, []string{"block", "unblock"}, storetest.All[string](l.Lab, `SELECT action FROM lethe.audit ORDER BY id`))
}
