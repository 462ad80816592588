package messages

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/timeline"
)

// A recordedAnswer is a page that a real Synapse was asked for, and what it said.
type recordedAnswer struct {
	user, room string
	filtered   bool
	Status     int
	Body       struct {
		Chunk []struct {
			EventID  string `json:"event_id"`
			Unsigned struct{ Membership string }
		}
	}
}

// TestRecordedVisibility asks what a real Synapse was asked before and after it purged
// and deleted rooms: who may read, and for all that a page spans, which events of
// it are shown, and with which memberships.
func TestRecordedVisibility(t *testing.T) {
	t.Parallel()
	for dump, c := range map[string]struct {
		reads string
		want  [4]int // pages refused, peeked into and compared, and events hidden from these
	}{
		"synapse-1.160-corpus.dump": {"synapse-1.160-reads.jsonl.gz", [4]int{20, 3, 183, 14}},
		"synapse-1.160-after.dump":  {"synapse-1.160-reads-after.jsonl.gz", [4]int{127, 0, 81, 1}},
	} {
		t.Run(c.reads, func(t *testing.T) {
			t.Parallel()
			h := houseAt(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", dump)), Options{})
			rooms := map[string][]timeline.Event{}
			visible := map[[2]string]map[string]shown{}
			refused, peeked, compared, hidden := 0, 0, 0, 0
			for _, page := range recordedAnswers(t, c.reads) {
				access, err := h.accessTo(page.room, page.user)
				if page.Status == http.StatusForbidden {
					require.ErrorIs(t, err, ErrForbidden, "%s in %s", page.user, page.room)
					refused++
					continue
				}
				require.NoError(t, err, "%s in %s", page.user, page.room)
				if access.peeker {
					peeked++
				}
				if rooms[page.room] == nil {
					rooms[page.room] = h.requireTimeline(page.room)
				}
				events, who := rooms[page.room], [2]string{page.user, page.room}
				if visible[who] == nil {
					visible[who] = map[string]shown{}
					for _, event := range h.requireVisible(page.room, Reader{UserID: page.user}, access, events) {
						visible[who][event.ID] = event
					}
				}
				first, last := len(events), 0
				in := map[string]bool{}
				for _, event := range page.Body.Chunk {
					require.Contains(t, visible[who], event.EventID, "%s in %s", page.user, page.room)
					require.Equal(t, event.Unsigned.Membership, visible[who][event.EventID].membership, event.EventID)
					in[event.EventID] = true
				}
				for i, event := range events {
					if in[event.ID] {
						first, last = min(first, i), i
					}
				}
				if page.filtered || len(in) == 0 {
					continue
				}
				compared++
				for _, event := range events[first:last] {
					if _, sees := visible[who][event.ID]; !sees {
						hidden++
						continue
					}
					require.True(t, in[event.ID], "%s sees %s of %s", page.user, event.ID, page.room)
				}
			}
			require.Equal(t, c.want, [4]int{refused, peeked, compared, hidden})
		})
	}
}

func recordedAnswers(t *testing.T, name string) (pages []recordedAnswer) {
	t.Helper()
	file, err := os.Open(devstacktest.Shared(t, "fixtures", name))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var read struct{ User, Path string }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &read))
		asked, err := url.Parse(read.Path)
		require.NoError(t, err)
		room, ok := strings.CutPrefix(asked.Path, "/_matrix/client/v3/rooms/")
		room, ok2 := strings.CutSuffix(room, "/messages")
		var page recordedAnswer
		if !ok || !ok2 || json.Unmarshal(lines.Bytes(), &page) != nil ||
			page.Status != http.StatusOK && page.Status != http.StatusForbidden {
			continue
		}
		page.user, page.room, page.filtered = read.User, room, asked.Query().Has("filter")
		pages = append(pages, page)
	}
	require.NoError(t, lines.Err())
	return pages
}

// requireTimeline reads the room's timeline without the events that no page shows:
// rejected events, and redactions of events that are not there.
func (h *house) requireTimeline(room string) []timeline.Event {
	h.t.Helper()
	rows, err := h.conn.Query(h.ctx, `
		SELECT e.event_id, e.type, e.sender, e.state_key, e.origin_server_ts, g.state_group, j.json, j.internal_metadata,
		       (SELECT min(r.event_id) FROM redactions r WHERE r.redacts = e.event_id)
		FROM events e JOIN event_json j USING (event_id) LEFT JOIN event_to_state_groups g USING (event_id)
		WHERE e.room_id = $1 AND NOT e.outlier AND e.rejection_reason IS NULL
		  AND NOT EXISTS (SELECT FROM rejections x WHERE x.event_id = e.event_id)
		  AND (e.type <> 'm.room.redaction'
		       OR EXISTS (SELECT FROM redactions r JOIN events t ON t.event_id = r.redacts WHERE r.event_id = e.event_id))
		ORDER BY e.topological_ordering, e.stream_ordering`, room)
	require.NoError(h.t, err)
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e timeline.Event, err error) {
		var text, metadata string
		err = row.Scan(&e.ID, &e.Type, &e.Sender, &e.StateKey, &e.OriginTS, &e.StateGroup, &text, &metadata, &e.RedactedBy)
		e.JSON, e.InternalMetadata = json.RawMessage(text), json.RawMessage(metadata)
		return e, err
	})
	require.NoError(h.t, err)
	return events
}
