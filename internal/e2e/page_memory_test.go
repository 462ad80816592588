package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
)

// peakMemory returns the largest memory that a process has had, in bytes.
func (p *process) peakMemory() int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(p.t, found)
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(p.t, err)
	return kib << 10
}

// addLargeEvents adds messages of 60 KB to the large room. The first half are the roots of
// threads, and the others are their replies.
func (f *fleet) addLargeEvents(n int) {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `
		CREATE TEMPORARY TABLE added AS
		SELECT i, '$big' || i AS event_id, (SELECT max(topological_ordering) FROM events) + i AS depth, nextval('events_stream_seq') AS stream,
		       (SELECT max(state_group) FROM event_to_state_groups JOIN events USING (event_id) WHERE room_id = '`+large+`') AS state_group
		FROM generate_series(1, $1::int) i`, n)
	require.NoError(f.t, err)
	for _, sql := range []string{
		`INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, origin_server_ts, received_ts)
		 SELECT event_id, '` + large + `', 'm.room.message', '@alice:` + server + `', depth, depth, stream, true, false, 1, 1 FROM added`,
		`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
		 SELECT event_id, '` + large + `', '{}', '{"type":"m.room.message","sender":"@alice:` + server + `","depth":1,"origin_server_ts":1,"content":{"body":"' || repeat('x', 60000) || '"}}',
		        (SELECT max(format_version) FROM event_json WHERE room_id = '` + large + `') FROM added`,
		`INSERT INTO event_to_state_groups (event_id, state_group) SELECT event_id, state_group FROM added`,
		`INSERT INTO event_relations (event_id, relates_to_id, relation_type) SELECT event_id, '$big' || i - (SELECT max(i) / 2 FROM added), 'm.thread' FROM added WHERE i > (SELECT max(i) / 2 FROM added)`,
		`ANALYZE events, event_json, event_relations, event_to_state_groups`,
	} {
		_, err := f.sql.Exec(f.t.Context(), sql)
		require.NoError(f.t, err)
	}
}

// TestLargePagesTakeBoundedMemory: 12 readers walk through a room of events of 60 KB that
// have threads, with pages of 1,000 events, while 25 readers take nothing of their pages.
// The api stays below 200 MB, and each of the 12 gets every event once.
func TestLargePagesTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	users := []string{"alice", "bob", "carol", "dave"}
	for _, user := range users {
		require.NoError(t, roomgen.Account(t.Context(), f.sql, "@"+user+":"+server, user+"-token", false))
	}
	// With 2,000 the peak is the same, and the test takes minutes.
	const added = 400
	f.addLargeEvents(added)
	const asAdmin, asMember = "/_synapse/admin/v1/rooms/" + large + "/messages", "/_matrix/client/v3/rooms/" + large + "/messages"

	for range 25 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.api.address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(1<<10))
		_, err = io.WriteString(conn, "GET "+asAdmin+"?dir=b&limit=1000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+f.token+"\r\n\r\n")
		require.NoError(t, err)
	}
	var refused, pages atomic.Int64
	var readers sync.WaitGroup
	problems := make(chan error, 12)
	for i := range 12 {
		readers.Go(func() {
			path, token := asMember, users[i%len(users)]+"-token"
			if i >= 8 {
				path, token = asAdmin, f.token
			}
			problems <- f.walkLarge(path, token, added, &refused, &pages)
		})
	}
	readers.Wait()
	for range 12 {
		require.NoError(t, <-problems, f.api.tail())
	}
	peak := f.api.peakMemory()
	t.Logf("peak of the api: %d MB; %d pages, %d refusals", peak/1_000_000, pages.Load(), refused.Load())
	require.Less(t, peak, 200_000_000)
	require.Greater(t, pages.Load(), int64(12*added*60_000/(5<<20)), "pages end at 4 MiB")
}

// walkLarge walks backwards through the large room with one token, and counts the pages and
// the refusals.
func (f *fleet) walkLarge(path, token string, added int, refused, pages *atomic.Int64) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Minute)
	defer cancel()
	seen := map[string]bool{}
	for from, more := "", true; more; {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.api.address+path+"?dir=b&limit=1000&from="+from, http.NoBody)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		var page struct {
			Chunk []struct {
				ID string `json:"event_id"`
			}
			End string
		}
		err = json.NewDecoder(response.Body).Decode(&page)
		_ = response.Body.Close()
		switch {
		case err != nil:
			return err
		case response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != "":
			refused.Add(1)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case response.StatusCode != http.StatusOK:
			return fmt.Errorf("status %d", response.StatusCode)
		}
		pages.Add(1)
		for _, event := range page.Chunk {
			if seen[event.ID] {
				return fmt.Errorf("%s came twice", event.ID)
			}
			seen[event.ID] = true
		}
		from, more = page.End, page.End != ""
	}
	for i := range added {
		if !seen[fmt.Sprintf("$big%d", i+1)] {
			return fmt.Errorf("$big%d of %d did not come", i+1, len(seen))
		}
	}
	return nil
}
