package messages

import (
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/matrix"
	"lethe/internal/roomgen"
)

// TestPagesFollowEachOther walks through a room from page to page, of any size and in
// either direction, as one from whom nothing is hidden: every event that can be read
// comes once, in its order.
func TestPagesFollowEachOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	room, err := roomgen.Generate(t.Context(), b.conn, roomgen.Room{Server: "x", Events: 200})
	require.NoError(t, err)
	b.requireExec(t, `SET session_replication_role = replica`) // others reference their place
	b.requireExec(t, `UPDATE events SET topological_ordering = topological_ordering / 3, stream_ordering = stream_ordering * CASE WHEN depth % 5 = 0 THEN -1 ELSE 1 END`)
	b.requireExec(t, `UPDATE events SET rejection_reason = 'x' WHERE depth % 7 < 3 AND state_key IS NULL AND NOT event_id IN (SELECT redacts FROM redactions)`)
	b.requireExec(t, `UPDATE event_json SET json = '[' WHERE event_id IN (SELECT event_id FROM events WHERE depth % 11 = 0 AND state_key IS NULL)`)
	rows, err := b.conn.Query(t.Context(), `
		SELECT event_id FROM events JOIN event_json USING (event_id)
		WHERE rejection_reason IS NULL AND json <> '[' ORDER BY topological_ordering, stream_ordering`)
	require.NoError(t, err)
	forwards, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Greater(t, len(forwards), 70)

	m := New(b.db, Options{})
	rapid.Check(t, func(rt *rapid.T) {
		want := slices.Clone(forwards)
		request := Request{Room: room.Room, All: true, Backwards: rapid.Bool().Draw(rt, "backwards")}
		if request.Backwards {
			slices.Reverse(want)
		} else {
			request.From = new(matrix.NewPageToken(matrix.Token{Stream: math.MinInt64}))
		}
		var got []string
		for range 1000 {
			request.Limit = rapid.IntRange(1, 50).Draw(rt, "limit")
			page, err := m.Page(t.Context(), request)
			require.NoError(rt, err)
			require.LessOrEqual(rt, len(page.Chunk), request.Limit)
			if request.From != nil {
				require.Equal(rt, request.From.String(), page.Start.String())
			}
			for _, raw := range page.Chunk {
				var event struct {
					ID string `json:"event_id"`
				}
				require.NoError(rt, json.Unmarshal(raw, &event))
				got = append(got, event.ID)
			}
			if request.From = page.End; page.End == nil {
				break
			}
		}
		require.Nil(rt, request.From)
		require.Equal(rt, want, got)
	})
}
