package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
)

// walk goes through a room from page to page, and returns the ids of its events in the
// order of the timeline.
func (f *fleet) walk(path, dir string, limit int) (ids []string) {
	f.t.Helper()
	from := ""
	for range 10_000 {
		status, page := f.ask(http.MethodGet, fmt.Sprintf("%s?dir=%s&limit=%d&from=%s", path, dir, limit, from), nil)
		require.Equal(f.t, http.StatusOK, status, "%v", page)
		for _, event := range page["chunk"].([]any) {
			ids = append(ids, event.(map[string]any)["event_id"].(string))
		}
		end, more := page["end"].(string)
		if !more {
			if dir == "b" {
				slices.Reverse(ids)
			}
			return ids
		}
		from = end
	}
	require.FailNow(f.t, "the walk does not end")
	return nil
}

// Readers who walk through a room while a worker purges it see every event that stays
// exactly once, and no other one twice.
func TestPagesWhileAWorkerPurges(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 3000)
	require.NoError(t, roomgen.Account(t.Context(), f.sql, "@alice:"+server, "member", false))
	cut := query[string](f, `
		SELECT event_id FROM events WHERE room_id = $1 ORDER BY topological_ordering DESC OFFSET 600 LIMIT 1`, large)
	member := *f
	member.token = "member"
	const asAdmin, asMember = "/_synapse/admin/v1/rooms/" + large + "/messages", "/_matrix/client/v3/rooms/" + large + "/messages"
	walkers := []func() []string{
		func() []string { return f.walk(asAdmin, "b", 100) },
		func() []string { return member.walk(asMember, "b", 37) },
		func() []string { return member.walk(asMember, "f", 100) },
	}
	whole := make([][]string, len(walkers))
	for i, walk := range walkers {
		whole[i] = walk()
		require.Greater(t, len(whole[i]), 2900)
	}

	worker := f.start("worker", "LETHE_WORKER_BATCH_EVENTS=20")
	id := f.purge(large, map[string]any{"purge_up_to_event_id": cut, "delete_local_events": true})
	type walk struct {
		walker  int
		visited []string
	}
	var walks []walk
	through := 0 // walks in which some events were gone before the walker came, and others not
	for active := true; active; {
		for i, walker := range walkers {
			batches := f.batches(id)
			walks = append(walks, walk{i, walker()})
			if f.batches(id) > batches {
				through++
			}
		}
		active = f.status(id)["status"] == "active"
	}
	f.await(time.Minute, id)
	require.Positive(t, through, worker.tail())
	for i, walker := range walkers {
		stays := walker()
		require.Less(t, len(stays), 700)
		require.Greater(t, len(stays), 500)
		for _, walk := range walks {
			if walk.walker == i {
				require.True(t, isPartOf(walk.visited, whole[i]), "an event came twice, or out of order")
				require.True(t, isPartOf(stays, walk.visited), "an event stays, and was not shown")
			}
		}
	}
}

// isPartOf reports whether all of the part is in the whole, in the same order.
func isPartOf(part, whole []string) bool {
	for _, id := range whole {
		if len(part) > 0 && part[0] == id {
			part = part[1:]
		}
	}
	return len(part) == 0
}
