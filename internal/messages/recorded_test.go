package messages

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

// TestRecordedEvents writes the events of all pages that a real Synapse was asked
// for, and the members that it sent with them. No difference is intended.
func TestRecordedEvents(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ dump, version, recorded string }{
		{"synapse-1.160-corpus.dump", "1.160", "synapse-1.160-reads.jsonl.gz"},
		{"synapse-1.160-corpus.dump", "1.98", "synapse-1.160-reads.jsonl.gz"},
		{"synapse-1.160-corpus.dump", "1.91", "synapse-1.160-reads.jsonl.gz"},
		{"synapse-1.160-after.dump", "1.160", "synapse-1.160-reads-after.jsonl.gz"},
	} {
		t.Run(c.recorded+" on the schema of "+c.version, func(t *testing.T) {
			t.Parallel()
			pages := recordedPages(t, c.recorded)
			database := storetest.Restored(t, c.dump, c.version)
			devices, groups := requireDevicesAndGroups(t, database)
			db, err := postgres.Open(t.Context(), database, postgres.Options{MaxConnections: 2})
			require.NoError(t, err)
			t.Cleanup(db.Close)
			events, members := 0, 0
			require.NoError(t, timeline.Read(t.Context(), db, func(ctx context.Context, snapshot *timeline.Snapshot) error {
				for _, page := range pages {
					chunk := page.requireShown(t, ctx, snapshot, groups)
					request := Request{
						Room: page.requireRoom(t), All: strings.HasPrefix(page.Path, "/_synapse/"),
						Reader: Reader{UserID: page.User, DeviceID: devices[page.User], Admin: page.User == "@admin:lab.test"},
					}
					got, err := render(ctx, snapshot, request, chunk)
					require.NoError(t, err)
					require.Len(t, got, len(page.Body.Chunk))
					for i, want := range page.Body.Chunk {
						require.Empty(t, cmp.Diff(ageless(want), ageless(requireDecoded(t, got[i]))), page.Path)
						events++
					}
					if !strings.Contains(page.Path, "lazy_load_members") {
						continue
					}
					state, err := lazyMembers(ctx, snapshot, request, chunk)
					require.NoError(t, err)
					require.Empty(t, cmp.Diff(byID(page.Body.State), byID(decodedAll(t, state))), page.Path)
					members += len(state)
				}
				return nil
			}))
			t.Logf("%d events, %d members", events, members)
			require.Greater(t, events, 3000)
			require.Greater(t, members, 50)
		})
	}
}

// An event is one as a client reads it.
type event = map[string]any

type recordedPage struct {
	User   string
	Path   string
	Status int
	Body   struct{ Chunk, State []event }
}

// recordedPages are those that were answered.
func recordedPages(t *testing.T, name string) (pages []recordedPage) {
	t.Helper()
	file, err := os.Open(devstacktest.Shared(t, "fixtures", name))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var about struct {
			Path   string
			Status int
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &about))
		if !strings.Contains(about.Path, "/messages") || about.Status != 200 {
			continue
		}
		var page recordedPage
		require.NoError(t, json.Unmarshal(lines.Bytes(), &page))
		pages = append(pages, page)
	}
	require.NoError(t, lines.Err())
	return pages
}

func (p recordedPage) requireRoom(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.Path, "/rooms/")
	require.True(t, ok)
	room, _, ok := strings.Cut(rest, "/messages")
	require.True(t, ok)
	room, err := url.PathUnescape(room)
	require.NoError(t, err)
	return room
}

// requireShown returns the events of the page as the visibility rules return them.
func (p recordedPage) requireShown(t *testing.T, ctx context.Context, snapshot *timeline.Snapshot, groups map[string]int64) []shown {
	t.Helper()
	var ids []string
	for _, event := range p.Body.Chunk {
		ids = append(ids, event["event_id"].(string))
	}
	events, err := snapshot.EventsOf(ctx, p.requireRoom(t), ids, timeline.EventFilter{})
	require.NoError(t, err)
	var chunk []shown
	for i, id := range ids {
		at := slices.IndexFunc(events, func(event timeline.Event) bool { return event.ID == id })
		require.GreaterOrEqual(t, at, 0, id)
		event := events[at]
		if group, ok := groups[id]; ok {
			event.StateGroup = &group
		}
		membership, _ := p.Body.Chunk[i]["unsigned"].(map[string]any)["membership"].(string)
		chunk = append(chunk, shown{Event: event, membership: membership})
	}
	return chunk
}

// requireDevicesAndGroups returns the device of each user, who has one, and the state
// group of each event.
func requireDevicesAndGroups(t *testing.T, database string) (devices map[string]string, groups map[string]int64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	devices, groups = map[string]string{}, map[string]int64{}
	rows, err := conn.Query(t.Context(), `SELECT user_id, coalesce(device_id, '') FROM access_tokens`)
	require.NoError(t, err)
	var user, device string
	_, err = pgx.ForEachRow(rows, []any{&user, &device}, func() error { devices[user] = device; return nil })
	require.NoError(t, err)
	rows, err = conn.Query(t.Context(), `SELECT event_id, state_group FROM event_to_state_groups`)
	require.NoError(t, err)
	var id string
	var group int64
	_, err = pgx.ForEachRow(rows, []any{&id, &group}, func() error { groups[id] = group; return nil })
	require.NoError(t, err)
	return devices, groups
}

func requireDecoded(t testing.TB, raw []byte) (e event) {
	t.Helper()
	require.NoError(t, json.Unmarshal(raw, &e), "%s", raw)
	return e
}

func decodedAll(t testing.TB, raw []json.RawMessage) (events []event) {
	t.Helper()
	for _, raw := range raw {
		events = append(events, requireDecoded(t, raw))
	}
	return events
}

// ageless makes all ages one, which change by themselves.
func ageless(value any) any {
	if object, ok := value.(event); ok {
		if _, ok := object["age"]; ok {
			object["age"] = "some"
		}
		for _, value := range object {
			ageless(value)
		}
	}
	return value
}

func byID(events []event) map[string]any {
	found := map[string]any{}
	for _, event := range events {
		found[event["event_id"].(string)] = ageless(event)
	}
	return found
}
