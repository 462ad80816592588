package e2e

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
)

// get asks the api with a token, and returns the status, the header Retry-After and the time
// that it took.
func (f *fleet) get(token, path string) (status int, retryAfter string, took time.Duration) {
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+f.api.address+path, http.NoBody)
	if err != nil {
		return 0, err.Error(), 0
	}
	request.Header.Set("Authorization", "Bearer "+token)
	begun := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error(), 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode, response.Header.Get("Retry-After"), time.Since(begun)
}

// addMessages adds small messages to the large room. Their filters walk through all of
// them.
func (f *fleet) addMessages(n int) {
	f.t.Helper()
	for _, sql := range []string{
		`CREATE TEMPORARY TABLE added AS
		 SELECT '$small' || i AS event_id, (SELECT max(topological_ordering) FROM events) + i AS depth, nextval('events_stream_seq') AS stream
		 FROM generate_series(1, $1::int) i`,
		`INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, origin_server_ts, received_ts)
		 SELECT event_id, '` + large + `', 'm.room.message', '@alice:` + server + `', depth, depth, stream, true, false, 1, 1 FROM added`,
		`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
		 SELECT event_id, '` + large + `', '{}', '{"type":"m.room.message","sender":"@alice:` + server + `","depth":1,"origin_server_ts":1,"content":{"body":"small"}}',
		        (SELECT max(format_version) FROM event_json WHERE room_id = '` + large + `') FROM added`,
		`INSERT INTO event_to_state_groups (event_id, state_group)
		 SELECT event_id, (SELECT max(state_group) FROM event_to_state_groups JOIN events USING (event_id) WHERE room_id = '` + large + `') FROM added`,
		`ANALYZE events, event_json, event_to_state_groups`,
	} {
		var args []any
		if strings.Contains(sql, "$1") {
			args = append(args, n)
		}
		_, err := f.sql.Exec(f.t.Context(), sql, args...)
		require.NoError(f.t, err)
	}
}

// expensive is a filter that compares each event with many patterns, and selects none.
func expensive() string {
	patterns := make([]string, 50)
	for i := range patterns {
		patterns[i] = `"m*r*o*o*m*m*e*s*s*a*g*e*` + strings.Repeat("*s*a", i) + `*x"`
	}
	return url.QueryEscape(`{"types":[` + strings.Join(patterns, ",") + `]}`)
}

// TestExpensiveFilters: one user sends 20 pages at once with a filter that selects nothing.
// Each is answered within the time of filters by 503 with Retry-After, or 429. Meanwhile the
// api is ready, and the pages of others and the rooms of admins are answered.
func TestExpensiveFilters(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	for _, user := range []string{"alice", "bob"} {
		require.NoError(t, roomgen.Account(t.Context(), f.sql, "@"+user+":"+server, user+"-token", false))
	}
	f.addMessages(100_000)
	f.api.kill()
	f.api = f.start("api", "LETHE_MESSAGES_FILTER_TIME=300ms")
	const messages = "/_matrix/client/v3/rooms/" + large + "/messages?dir=b&limit=10"

	beside := map[string]struct{ token, path string }{
		"ready":    {"", "/readyz"},
		"page":     {"bob-token", messages},
		"filtered": {"bob-token", messages + "&filter=" + url.QueryEscape(`{"types":["m.room.message"],"lazy_load_members":true}`)},
		"rooms":    {f.token, "/_synapse/admin/v1/rooms"},
	}
	times := map[string]map[bool][]time.Duration{}
	measure := func(busy bool) {
		for name, asked := range beside {
			status, _, took := f.get(asked.token, asked.path)
			require.Equal(t, http.StatusOK, status, name)
			if times[name] == nil {
				times[name] = map[bool][]time.Duration{}
			}
			times[name][busy] = append(times[name][busy], took)
		}
	}
	for range 100 {
		measure(false)
	}

	var statuses sync.Map
	var stopped atomic.Bool
	var attack sync.WaitGroup
	for range 20 {
		attack.Go(func() {
			for !stopped.Load() {
				status, after, took := f.get("alice-token", messages+"&filter="+expensive())
				statuses.Store(status, took)
				if status == http.StatusOK || after == "" {
					stopped.Store(true)
				}
			}
		})
	}
	for range 100 {
		measure(true)
	}
	stopped.Store(true)
	attack.Wait()
	var answered []int
	statuses.Range(func(status, _ any) bool {
		answered = append(answered, status.(int))
		return true
	})
	slices.Sort(answered)
	require.Contains(t, answered, http.StatusServiceUnavailable, "%s", f.api.tail())
	require.Subset(t, []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, answered)
	for name, by := range times {
		for _, took := range by {
			slices.Sort(took)
		}
		idle, busy := by[false], by[true]
		t.Logf("%s: median %s idle and %s beside, p99 %s and %s", name, idle[len(idle)/2], busy[len(busy)/2], idle[98], busy[98])
		require.Less(t, busy[98], 2*time.Second, name)
	}
}
