package httpapi_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/messages"
)

// TestReaderWhoTakesNothing: it keeps the memory of its page only for the stall time.
// Meanwhile the pages of others are refused if they need more than is left, and the
// refusal says when to ask again.
func TestReaderWhoTakesNothing(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "httpapi", prepare)
	db := openStore(t, url)
	const events, bytes = 300, 60_000
	budget := messages.NewBudget(events*bytes + 8<<20)
	b := setupOn(t, db, httpapi.Options{
		Messages:     messages.New(db, messages.Options{Budget: budget, MaxPageBytes: events * bytes}),
		StallTimeout: 500 * time.Millisecond,
	})
	b.url = url
	b.requireExec(t, `
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, received_ts)
		SELECT '$big' || i, '!big:x', 'm.room.message', '@user:x', i, i, 100 + i, true, false, 1 FROM generate_series(1, $1::int) i`, events)
	b.requireExec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{"type":"m.room.message","sender":"@user:x","depth":1,"origin_server_ts":1,"content":{"body":"' || repeat('x', $1) || '"}}'
		FROM events WHERE room_id = '!big:x'`, bytes-1000)
	const page = " /_synapse/admin/v1/rooms/!big:x/messages?limit=1000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin + "\r\n\r\n"

	conn := b.requireDial(t)
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(1<<10))
	_, err := io.WriteString(conn, "GET"+page)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return budget.Taken() > events*bytes-2<<20 }, time.Minute, time.Millisecond)
	refused := b.send(t, http.MethodGet, "/_synapse/admin/v1/rooms/!big:x/context/$big1?limit=1", "")
	requireJSON(t, refused, http.StatusServiceUnavailable,
		`{"errcode":"M_LIMIT_EXCEEDED","error":"Too many pages are being read","retry_after_ms":2000}`)
	require.Equal(t, "2", refused.header.Get("Retry-After"))

	require.Eventually(t, func() bool { return budget.Taken() == 0 }, 20*time.Second, 10*time.Millisecond)
	whole := b.send(t, http.MethodGet, "/_synapse/admin/v1/rooms/!big:x/messages?limit=1000", "")
	require.Equal(t, http.StatusOK, whole.status)
	require.Greater(t, len(whole.body), events*bytes/2)
	require.True(t, json.Valid([]byte(whole.body)), "one who reads gets it all")
	require.Eventually(t, func() bool { return budget.Taken() == 0 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, http.StatusOK, b.raw(t, "HEAD /_synapse/admin/v1/rooms/!big:x/messages?limit=1 HTTP/1.1\nHost: x\nAuthorization: Bearer "+admin+"\n\n").status)
}

// TestRequestAfterASlowlyReadPage: who takes a page only when its time is nearly over can
// use the connection for another request.
func TestRequestAfterASlowlyReadPage(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "httpapi", prepare)
	db := openStore(t, url)
	const timeout = 2 * time.Second
	b := setupOn(t, db, httpapi.Options{
		Messages: messages.New(db, messages.Options{MaxPageBytes: 32 << 20}), Timeout: timeout, StallTimeout: time.Minute,
	})
	b.url = url
	b.requireExec(t, `
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, received_ts)
		SELECT '$big' || i, '!big:x', 'm.room.message', '@user:x', i, i, 100 + i, true, false, 1 FROM generate_series(1, 300) i`)
	b.requireExec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', '{"type":"m.room.message","sender":"@user:x","depth":1,"origin_server_ts":1,"content":{"body":"' || repeat('x', 50000) || '"}}'
		FROM events WHERE room_id = '!big:x'`)
	request := func(limit string) string {
		return "GET /_synapse/admin/v1/rooms/!big:x/messages?limit=" + limit + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin + "\r\n\r\n"
	}
	// On a busy machine the rest may come too late, and the answer is cut off.
	read := func() bool {
		conn := b.requireDial(t)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		begun := time.Now()
		_, err := io.WriteString(conn, request("1000"))
		require.NoError(t, err)
		answers := bufio.NewReader(conn)
		first, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		time.Sleep(time.Until(begun.Add(timeout * 7 / 4))) // between the time for reads that was too short and that for the answer
		if _, err := io.Copy(io.Discard, first.Body); err != nil {
			return false
		}
		_, err = io.WriteString(conn, request("1"))
		require.NoError(t, err)
		second, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, second.StatusCode)
		body, err := io.ReadAll(second.Body)
		require.NoError(t, err)
		require.True(t, json.Valid(body), "%q", body)
		return true
	}
	for range 10 {
		if read() {
			return
		}
	}
	t.Fatal("the page was never read in time")
}
