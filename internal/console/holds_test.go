package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/storetest"
)

func TestHolds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b, reader := l.signedIn("syt_admin"), l.signedIn("syt_support")
	room := "!a/%2F" + markup + ":x"
	place := func(b *browser, room, reason string) page {
		return b.send("POST", root+"/holds/place", url.Values{"proof": {b.proof()}, "room": {room}, "reason": {reason}})
	}
	for _, bad := range [][2]string{{"", "r"}, {"a", "r"}, {room, ""}, {room, strings.Repeat("x", 1001)}, {room, "\x00"}} {
		require.Equal(t, http.StatusBadRequest, place(b, bad[0], bad[1]).status, bad)
	}
	require.Equal(t, http.StatusForbidden, place(reader, room, "r").status)
	for _, path := range []string{"/holds/place", "/holds/lift?room=" + url.QueryEscape(room)} {
		require.Equal(t, http.StatusForbidden, reader.get(path).status)
	}
	require.Contains(t, b.get("/holds").body, "No room is held.")
	require.Equal(t, http.StatusForbidden, b.send("POST", root+"/holds/place", url.Values{"room": {room}, "reason": {"r"}}).status, "without a proof")

	require.Equal(t, root+"/holds?done=place", place(b, room, "court "+markup).header.Get("Location"))
	require.Equal(t, "@admin:x", storetest.One[string](l.Lab, `SELECT placed_by FROM lethe.holds WHERE room_id = $1`, room))
	require.Equal(t, http.StatusConflict, place(b, room, "another reason").status)
	list := b.get("/holds?room=" + url.QueryEscape("a/%2F")).body
	require.Contains(t, list, "court ")
	require.NotContains(t, list, "<script>alert")
	require.Contains(t, list, "/holds/lift?room=")
	require.NotContains(t, reader.get("/holds").body, "/holds/lift")
	require.NotContains(t, b.get("/holds?room=zzz").body, "court")
	require.Contains(t, b.get("/holds/lift?room="+url.QueryEscape(room)).body, "what they delete is gone for ever")

	require.Equal(t, http.StatusForbidden, reader.send("POST", root+"/holds/lift", url.Values{"proof": {reader.proof()}, "room": {room}}).status)
	lift := func() page {
		return b.send("POST", root+"/holds/lift", url.Values{"proof": {b.proof()}, "room": {room}})
	}
	require.Equal(t, root+"/holds?done=lift", lift().header.Get("Location"))
	require.Equal(t, "@admin:x", storetest.One[string](l.Lab, `SELECT released_by FROM lethe.holds WHERE room_id = $1`, room))
	require.Equal(t, http.StatusNotFound, lift().status)
	require.NotContains(t, b.get("/holds").body, "court")
	require.Contains(t, b.get("/holds?released=true").body, "court")
}

func TestManyHoldsAreASmallPage(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO lethe.holds (room_id, reason, placed_by) SELECT '!' || n || repeat('"', 240) || ':x', repeat('"', CASE WHEN n > 9900 THEN 1000 ELSE 1 END), '@' || repeat('"', 250) || ':x' FROM generate_series(1, 10000) n`)
	p := l.signedIn("syt_admin").get("/holds")
	require.Equal(t, http.StatusOK, p.status)
	require.Less(t, len(p.body), maxPage)
	require.Contains(t, p.body, "9970 more match.")
	require.Contains(t, l.signedIn("syt_admin").get("/holds?room=!77%22").body, "!77&#34;")
}
