package timeline_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// drawChildren fills the database with a room of ten parents and events that relate to them,
// among which is everything that must not count.
func (m *pageModel) drawChildren(t *rapid.T) {
	var pipeline pgx.Batch
	for _, table := range []string{"redactions", "event_relations", "rejections", "event_json", "event_to_state_groups", "events", "rooms", "ignored_users"} {
		pipeline.Queue(`DELETE FROM ` + table)
	}
	pipeline.Queue(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10'), ($2, '1')`, weirdRoom, bystanderRoom)
	pipeline.Queue(`INSERT INTO ignored_users (ignorer_user_id, ignored_user_id) VALUES ('@reader:x', '@a:x'), ('@a:x', '@b:x'), ('@a:x', '@c:y')`)
	const parents = 10
	places := rapid.Permutation(func() (all []int64) {
		for n := range int64(50) {
			all = append(all, n-10)
		}
		return all
	}()).Draw(t, "places")
	senders := []string{"@a:x", "@a:x", "@a:x", "@a:x", "@b:x", "@b:x", "@c:y"} // so that many edits are by the author
	last := parents + rapid.IntRange(15, 35).Draw(t, "children")
	for i := range last {
		id := fmt.Sprintf("$%02d", i)
		one := func(of []string, label string) string { return rapid.SampledFrom(of).Draw(t, label) }
		kind, key, in, format := one([]string{"m.room.message", "m.room.message", "m.room.message", "m.room.message", "m.sticker"}, "type"), (*string)(nil), weirdRoom, 3
		sender, stream, sent := maybe(t, senders, "sender"), &places[i], maybe(t, []int64{-1, 0, 5, 5, 9}, "sent")
		lost := ""
		if i >= parents {
			switch lost = one([]string{"", "", "", "", "", "", "rejected", "refused", "no JSON", "format", "room", "place", "redacted"}, "lost"); lost {
			case "room":
				in = bystanderRoom
			case "format":
				format = 1
			case "place":
				stream = nil
			}
			if rapid.IntRange(0, 200).Draw(t, "other") == 200 {
				kind = one([]string{"m.room.redaction", "m.room.topic"}, "kind")
				key = maybe(t, []string{""}, "key")
			}
			parent := fmt.Sprintf("$%02d", rapid.IntRange(0, min(i-1, parents+5)).Draw(t, "parent"))
			pipeline.Queue(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`,
				id, parent, one([]string{"m.reference", "m.replace", "m.thread", "m.annotation"}, "relation"))
		}
		var refused *string
		if lost == "refused" {
			refused = &lost
		}
		pipeline.Queue(`
			INSERT INTO events (event_id, room_id, type, state_key, sender, topological_ordering, depth, stream_ordering, processed, outlier,
				origin_server_ts, rejection_reason)
			VALUES ($1, $2, $3, $4, $5, $6, $6, $7, true, $8, $9, $10)`,
			id, in, kind, key, sender, rapid.Int64Range(0, 4).Draw(t, "depth"), stream, i >= parents && rapid.IntRange(0, 9).Draw(t, "outlier") == 0, sent, refused)
		pipeline.Queue(`INSERT INTO event_to_state_groups (event_id, state_group) VALUES ($1, $2)`, id, i)
		if lost == "rejected" {
			pipeline.Queue(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, id)
		}
		if lost == "redacted" {
			pipeline.Queue(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, fmt.Sprintf("$%02d", rapid.IntRange(0, last).Draw(t, "redaction"))+one([]string{"", "r"}, "known")+id, id)
		}
		if lost != "no JSON" {
			pipeline.Queue(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, $3, $4, $5)`,
				id, in, `{"n":"`+id+`"}`, fmt.Sprintf(`{"text":"%0*d"}`, rapid.IntRange(1, 40).Draw(t, "size"), i), format)
		}
	}
	require.NoError(t, m.conn.SendBatch(context.Background(), &pipeline).Close())
}

// TestChildrenTellWhatStatementsOfTheirOwnTell compares bundles and outlines of the children
// that are read with a page with those that are looked up for its events.
func TestChildrenTellWhatStatementsOfTheirOwnTell(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	cache := timeline.NewCache(timeline.CacheOptions{Bytes: 1 << 20})
	told, threads, edits := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m.drawChildren(t)
		asked := timeline.PageQuery{Room: weirdRoom, Backwards: rapid.Bool().Draw(t, "backwards"), Limit: rapid.SampledFrom([]int{1, 5, 20, 20, 50}).Draw(t, "limit")}
		children := timeline.ChildQuery{Ignorer: rapid.SampledFrom([]string{"", "@reader:x", "@a:x"}).Draw(t, "ignorer")}
		if rapid.Bool().Draw(t, "below") {
			children.Ceiling = &matrix.Token{Topological: rapid.Int64Range(0, 4).Draw(t, "ceiling"), Stream: rapid.Int64Range(-10, 39).Draw(t, "place")}
		}
		asked.Children = &children
		for range 2 { // the second time the cache is warm
			require.NoError(t, timeline.ReadWith(context.Background(), m.db, cache, func(ctx context.Context, snapshot *timeline.Snapshot) error {
				pages, err := snapshot.Pages(ctx, asked)
				require.NoError(t, err)
				page := pages[0]
				plain := asked
				plain.Children = nil
				plainly, err := snapshot.Pages(ctx, plain)
				require.NoError(t, err)
				require.Equal(t, plainly[0].Events, page.Events)
				require.Equal(t, plainly[0].Last, page.Last)
				require.Equal(t, plainly[0].More, page.More)
				if page.Children == nil {
					return nil
				}
				told++
				query := timeline.BundleQuery{
					Room: weirdRoom, Reader: rapid.SampledFrom([]string{"@reader:x", "@b:x"}).Draw(t, "reader"), Ignorer: children.Ignorer,
					Ceiling: children.Ceiling, Bytes: rapid.SampledFrom([]int{0, 1, 1, 30, 60}).Draw(t, "bytes"),
				}
				for _, event := range page.Events {
					if event.Related.Thread {
						query.Roots = append(query.Roots, event.ID)
					}
					if event.Related.Referenced {
						query.Parents = append(query.Parents, event.ID)
					}
					if event.Related.Edited {
						query.Originals = append(query.Originals, event.ID)
					}
				}
				bounded := query
				bounded.Bytes = 1
				wantBounded, err := snapshot.Bundles(ctx, bounded)
				require.NoError(t, err)
				bounded.Children = page.Children
				gotBounded, err := snapshot.Bundles(ctx, bounded)
				require.NoError(t, err)
				require.Equal(t, wantBounded.Cut, gotBounded.Cut)
				want, err := snapshot.Bundles(ctx, query)
				require.NoError(t, err)
				query.Children = page.Children
				got, err := snapshot.Bundles(ctx, query)
				require.NoError(t, err)
				for root, thread := range got.Threads {
					thread.Latest = comparable(thread.Latest)
					got.Threads[root] = thread
				}
				for id, edit := range got.Edits {
					edit = comparable(edit)
					edit.Related = timeline.Related{} // only those of replies are asked for
					got.Edits[id] = edit
				}
				require.Equal(t, want, got)
				threads, edits = threads+len(got.Threads), edits+len(got.Edits)

				ids := slices.Concat(slices.Collect(maps.Values(got.References))...)
				for _, id := range append(ids, "$00") { // which is no child
					want, err := snapshot.OutlinesOf(ctx, weirdRoom, []string{id}, nil)
					require.NoError(t, err)
					got, err := snapshot.OutlinesOf(ctx, weirdRoom, []string{id}, page.Children)
					require.NoError(t, err)
					for _, outlines := range [][]timeline.Event{want, got} {
						for i := range outlines {
							outlines[i].Related = timeline.Related{} // it does not matter for who may see it
						}
					}
					require.ElementsMatch(t, want, got)
				}
				return nil
			}))
		}
	})
	for what, n := range map[string]int{"pages": told, "threads and edits": threads + edits} {
		require.Positive(t, n, what)
	}
}

// comparable returns the event without what only some statements read.
func comparable(event timeline.Event) timeline.Event {
	event.StateGroup, event.Prepared = nil, nil
	return event
}

// TestManyChildrenAreNotReadWithAPage checks that a page with as many relations as are read
// at most leaves its children to statements of their own, as one does whose children are
// not all messages.
func TestManyChildrenAreNotReadWithAPage(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	m.exec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, weirdRoom)
	m.exec(t, `
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, origin_server_ts)
		SELECT '$' || n, $1, 'm.room.message', '@a:x', n, n, n, true, false, n FROM generate_series(1, 501) n`, weirdRoom)
	m.exec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) SELECT event_id, room_id, '{}', '{}', 3 FROM events`)
	children := func() *timeline.Children {
		var page timeline.Page
		require.NoError(t, timeline.Read(t.Context(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) error {
			pages, err := snapshot.Pages(ctx, timeline.PageQuery{Room: weirdRoom, After: new(matrix.LivePageToken(0)), Limit: 1, Children: &timeline.ChildQuery{}})
			page = pages[0]
			return err
		}))
		require.Len(t, page.Events, 1)
		return page.Children
	}
	relate := func(last int) {
		m.exec(t, `DELETE FROM event_relations`)
		m.exec(t, `INSERT INTO event_relations (event_id, relates_to_id, relation_type) SELECT '$' || n, '$1', 'm.reference' FROM generate_series(2, $1::int) n`, last)
	}
	relate(500)
	require.NotNil(t, children(), "499 relations")
	relate(501)
	require.Nil(t, children(), "500 relations")
	relate(10)
	require.NotNil(t, children())
	m.exec(t, `UPDATE events SET state_key = '' WHERE event_id = '$5'`)
	require.Nil(t, children(), "one is a state event")
	m.exec(t, `UPDATE events SET state_key = NULL, type = 'm.room.redaction' WHERE event_id = '$5'`)
	require.Nil(t, children(), "one is a redaction")
}

// TestChildrenThatDoNotCount has one of each kind that a draw may miss.
func TestChildrenThatDoNotCount(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	m.exec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, weirdRoom)
	m.exec(t, `
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier, origin_server_ts)
		SELECT '$' || n, $1, 'm.room.message', CASE WHEN n IN (5, 8) THEN '@b:x' ELSE '@a:x' END, n, n, n, true, false, n FROM generate_series(1, 9) n`, weirdRoom)
	m.exec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) SELECT event_id, room_id, '{}', '{}', 3 FROM events`)
	m.exec(t, `INSERT INTO ignored_users (ignorer_user_id, ignored_user_id) VALUES ('@reader:x', '@b:x')`)
	m.exec(t, `
		INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES
		('$3', '$1', 'm.thread'), ('$4', '$1', 'm.thread'), ('$5', '$1', 'm.thread'), ('$9', '$1', 'm.thread'),
		('$6', '$2', 'm.thread'), ('$7', '$2', 'm.replace'), ('$8', '$2', 'm.replace')`)
	ceiling := &matrix.Token{Topological: 8, Stream: 8}
	require.NoError(t, timeline.Read(t.Context(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		pages, err := snapshot.Pages(ctx, timeline.PageQuery{
			Room: weirdRoom, After: new(matrix.LivePageToken(0)), Limit: 2, Children: &timeline.ChildQuery{Ignorer: "@reader:x", Ceiling: ceiling},
		})
		require.NoError(t, err)
		query := timeline.BundleQuery{
			Room: weirdRoom, Reader: "@reader:x", Ignorer: "@reader:x", Ceiling: ceiling, Children: pages[0].Children,
			Roots: []string{"$1", "$2"}, Originals: []string{"$2"},
		}
		found, err := snapshot.Bundles(ctx, query)
		require.NoError(t, err)
		require.EqualValues(t, 2, found.Threads["$1"].Count, "neither of an ignored user nor after the ceiling")
		require.Equal(t, "$4", found.Threads["$1"].Latest.ID)
		require.Equal(t, "$7", found.Edits["$2"].ID, "by the author")
		require.Empty(t, found.Cut)
		query.Bytes = 1
		found, err = snapshot.Bundles(ctx, query)
		require.Equal(t, map[string]bool{"$2": true}, found.Cut)
		return err
	}))
}
