package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The types of relations that events are shown with.
const (
	referenceRelation = "m.reference"
	replaceRelation   = "m.replace"
	threadRelation    = "m.thread"
)

// Related says by which types of relations there are events that relate to one.
// Whether they count is another question.
type Related struct{ Referenced, Edited, Thread bool }

// A Thread is what is known about the replies in a thread.
type Thread struct {
	// Count is how many there are.
	Count int64

	// Participated says that the reader sent one of them.
	Participated bool

	// Latest is the last of them.
	Latest TimelineEvent
}

// Beside reads in one round trip what the events of a page may have to be shown
// with: the events that state events have replaced, as [Snapshot.Events] does,
// and, for those of the parents that others relate to, how. Without ids it asks
// nothing. The caller bounds how many they are.
func (s *Snapshot) Beside(ctx context.Context, replaced, parents []string) (map[string]TimelineEvent, map[string]Related, error) {
	events, related := map[string]TimelineEvent{}, map[string]Related{}
	batch := &pgx.Batch{}
	if replaced = storables(replaced); len(replaced) > 0 {
		batch.Queue(eventsSQL, replaced).Query(func(rows pgx.Rows) (err error) {
			events, err = eventsOf(rows)
			return err
		})
	}
	if parents = storables(parents); len(parents) > 0 {
		// Most events have no relation at all, which one look into the index says.
		// The limits keep the server from reading all of a long thread, and from
		// any plan but that of an index.
		batch.Queue(`
			SELECT asked.id, known.type
			FROM unnest($1::text[]) AS asked (id)
			CROSS JOIN LATERAL (SELECT FROM event_relations r WHERE r.relates_to_id = asked.id LIMIT 1) AS found
			CROSS JOIN unnest($2::text[]) AS known (type)
			CROSS JOIN LATERAL (
				SELECT FROM event_relations r WHERE r.relates_to_id = asked.id AND r.relation_type = known.type LIMIT 1) AS found_of_type`,
			parents, []string{referenceRelation, replaceRelation, threadRelation}).Query(func(rows pgx.Rows) error {
			var id, kind string
			_, err := pgx.ForEachRow(rows, []any{&id, &kind}, func() error {
				of := related[id]
				switch kind {
				case referenceRelation:
					of.Referenced = true
				case replaceRelation:
					of.Edited = true
				case threadRelation:
					of.Thread = true
				}
				related[id] = of
				return nil
			})
			return err
		})
	}
	if batch.Len() == 0 {
		return events, related, nil
	}
	if err := s.tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, nil, fmt.Errorf("read what belongs to events: %w", err)
	}
	return events, related, nil
}

const (
	// childrenSQL are the events c that were not rejected, of the room $2, with
	// their relations r. OFFSET keeps the planner from joining whole tables: it
	// cannot know that most parents have few children.
	childrenSQL = `
		event_relations r
		CROSS JOIN LATERAL (
			SELECT c.event_id, c.type, c.sender, c.topological_ordering, c.stream_ordering, c.origin_server_ts
			FROM events c
			WHERE c.event_id = r.event_id AND c.room_id = $2 AND c.rejection_reason IS NULL
			  AND NOT EXISTS (SELECT FROM rejections x WHERE x.event_id = c.event_id)
			OFFSET 0
		) c`

	// heededSQL are those of them with i, their senders if the user $3 ignores them.
	heededSQL = childrenSQL + `
		LEFT JOIN ignored_users i ON i.ignorer_user_id = $3 AND i.ignored_user_id = c.sender`
)

// Threads reads the threads that hang on events of a room, by these roots.
// Replies of users whom the ignorer ignores do not count; a root without any
// that does is left out. However long a thread is, one event of it is read.
func (s *Snapshot) Threads(ctx context.Context, room, reader, ignorer string, roots []string) (map[string]Thread, error) {
	const operation = "read threads"
	threads := map[string]Thread{}
	if roots = storables(roots); len(roots) == 0 || !storable(room) || !storable(reader) || !storable(ignorer) {
		return threads, nil
	}
	// The largest pair of orderings is found without a sort, and is of one event.
	rows, err := s.tx.Query(ctx, `
		SELECT asked.root, asked.count, asked.participated,`+eventColumns+`
		FROM (
			SELECT roots.id AS root, t.count, t.participated, latest.event_id
			FROM unnest($1::text[]) AS roots (id)
			CROSS JOIN LATERAL (
				SELECT count(*) FILTER (WHERE i.ignored_user_id IS NULL) AS count,
				       coalesce(bool_or(c.sender = $4), false) AS participated,
				       max(ARRAY[c.topological_ordering, c.stream_ordering]) FILTER (WHERE i.ignored_user_id IS NULL) AS latest
				FROM `+heededSQL+`
				WHERE r.relates_to_id = roots.id AND r.relation_type = 'm.thread' AND c.stream_ordering IS NOT NULL
			) t
			JOIN events latest ON latest.stream_ordering = t.latest[2]
		) asked`+eventTables, roots, room, ignorer, reader)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	var root string
	var thread Thread
	_, err = pgx.ForEachRow(rows, append([]any{&root, &thread.Count, &thread.Participated}, thread.Latest.columns()...), func() error {
		threads[root] = thread
		thread = Thread{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return threads, nil
}

// Bundled reads in one round trip which events of the room refer to the parents,
// in the order of the timeline, and the latest edits of the originals: of those
// by the same sender and of the same type. What users say whom the ignorer
// ignores refers to nothing. Without ids it asks nothing.
func (s *Snapshot) Bundled(ctx context.Context, room, ignorer string, parents, originals []string) (
	references map[string][]string, edits map[string]TimelineEvent, err error,
) {
	references, edits = map[string][]string{}, map[string]TimelineEvent{}
	if !storable(room) || !storable(ignorer) {
		return references, edits, nil
	}
	batch := &pgx.Batch{}
	if parents = storables(parents); len(parents) > 0 {
		batch.Queue(`
			SELECT parents.id, children.ids
			FROM unnest($1::text[]) AS parents (id)
			CROSS JOIN LATERAL (
				SELECT array_agg(c.event_id ORDER BY c.topological_ordering, c.stream_ordering) AS ids
				FROM `+heededSQL+`
				WHERE r.relates_to_id = parents.id AND r.relation_type = 'm.reference' AND i.ignored_user_id IS NULL
			) children
			WHERE children.ids IS NOT NULL`, parents, room, ignorer).Query(func(rows pgx.Rows) error {
			var parent string
			var ids []string
			_, err := pgx.ForEachRow(rows, []any{&parent, &ids}, func() error {
				references[parent] = ids
				ids = nil
				return nil
			})
			return err
		})
	}
	if originals = storables(originals); len(originals) > 0 {
		batch.Queue(`
			SELECT asked.original,`+eventColumns+`
			FROM (
				SELECT o.event_id AS original, edit.event_id
				FROM unnest($1::text[]) AS originals (id)
				JOIN events o ON o.event_id = originals.id AND o.room_id = $2
				CROSS JOIN LATERAL (
					SELECT c.event_id
					FROM `+childrenSQL+`
					WHERE r.relates_to_id = o.event_id AND r.relation_type = 'm.replace' AND c.type = o.type AND c.sender = o.sender
					ORDER BY c.origin_server_ts DESC NULLS LAST, c.event_id DESC
					LIMIT 1
				) edit
			) asked`+eventTables, originals, room).Query(func(rows pgx.Rows) error {
			var original string
			var edit TimelineEvent
			_, err := pgx.ForEachRow(rows, append([]any{&original}, edit.columns()...), func() error {
				edits[original] = edit
				edit = TimelineEvent{}
				return nil
			})
			return err
		})
	}
	if batch.Len() == 0 {
		return references, edits, nil
	}
	if err := s.tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, nil, fmt.Errorf("read references and edits: %w", err)
	}
	return references, edits, nil
}
