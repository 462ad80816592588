package timeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lethe/internal/store/rowcache"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// A Cache keeps what snapshots have read of rows that hardly ever change: the texts of
// events, and the states of state groups. It is safe for concurrent use.
//
// Which rows exist, and in which version, is read in every snapshot. So a Cache never
// shows an event that is gone, whatever has deleted it, nor an old text of an event that
// was censored. The state of a group is looked at again if the group's row is another one.
type Cache struct {
	options CacheOptions
	texts   *rowcache.Rows[string, *text]
	states  *rowcache.Rows[stateKey, StateAt]
	hints   *rowcache.Hints
}

// CacheOptions are the settings of [NewCache].
type CacheOptions struct {
	// Bytes is the memory of the cache. Defaults to 0, no cache.
	Bytes int

	// Prepare makes something of an event's JSON, internal metadata and room version, for
	// [Event.Prepared], and returns about how many bytes it takes. It must look at nothing
	// else of the event. Defaults to nil, which prepares nothing.
	Prepare func(event *Event) (prepared any, bytes int)
}

// NewCache returns an empty Cache. It returns nil, which keeps nothing, for no bytes.
func NewCache(options CacheOptions) *Cache {
	if options.Bytes <= 0 {
		return nil
	}
	budget := rowcache.NewBudget(options.Bytes)
	return &Cache{
		options: options, hints: rowcache.NewHints(),
		texts: rowcache.NewRows[string, *text](budget), states: rowcache.NewRows[stateKey, StateAt](budget),
	}
}

// Stats returns the numbers of the two parts of a cache. They are zero for nil.
func (c *Cache) Stats() (events, states rowcache.Stats) {
	if c == nil {
		return events, states
	}
	return c.texts.Stats(), c.states.Stats()
}

// A text is what is kept of a row of event_json, and what was made of it.
type text struct {
	json, metadata []byte
	prepared       any
}

// A stateKey names what is kept of a state group for a reader.
type stateKey struct {
	group  int64
	reader string
}

func keyOf(group int64, reader string) stateKey { return stateKey{group, reader} }

// errTextGone is returned if a text is not where the same snapshot has seen it.
var errTextGone = errors.New("the text of an event is gone within a snapshot")

// queueMoment asks for the moment of the snapshot, unless it is known. A recovery from a
// crash resets the statistics of the background writer. Before PostgreSQL 15 reading them
// takes longer than a page, so that a recovery stays unnoticed there.
func (s *Snapshot) queueMoment(batch *pgx.Batch) {
	if s.cache == nil || s.moment != (rowcache.Moment{}) {
		return
	}
	batch.Queue(`
		SELECT pg_postmaster_start_time(),
		       CASE WHEN current_setting('server_version_num')::int >= 150000 THEN pg_stat_get_bgwriter_stat_reset_time() END,
		       pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
		FROM pg_current_snapshot() AS s`).QueryRow(func(row pgx.Row) error {
		var started time.Time
		var recovered *time.Time
		err := row.Scan(&started, &recovered, &s.moment.Oldest, &s.moment.Next)
		if s.moment.Server = started.UnixMicro(); recovered != nil {
			s.moment.Recovered = recovered.UnixMicro()
		}
		return err
	})
}

// hintDepths is the number of depths that hints do not tell apart.
const hintDepths = 16

// expects reports whether the cache probably has the texts of the page. It guesses from
// the depth at the middle of the page, if no depth is missing. If it guesses wrong, the
// texts are read once more, or without need.
func (s *Snapshot) expects(q PageQuery) bool {
	if s.cache == nil {
		return false
	}
	begin := q.After
	if q.Backwards {
		begin = q.UpTo
	}
	depth, ahead := int64(-1), int64(q.Limit/2)
	if begin != nil {
		if at, historic := begin.Historic(); historic {
			depth = at.Topological
		}
	}
	switch {
	case q.Backwards && q.Ceiling != nil:
		depth = q.Ceiling.Topological
	case !q.Backwards && q.Floor != nil:
		depth = q.Floor.Topological
	case depth < 0:
		return s.cache.hints.Marked(q.Room, -1)
	}
	if q.Backwards {
		ahead = -ahead
	}
	return s.cache.hints.Marked(q.Room, max(depth+ahead, 0)/hintDepths)
}

// addTexts completes the events of a page: with the texts that the cache has of their
// versions, and for the others with those that the statement has read, or that it reads
// now. It keeps these.
func (s *Snapshot) addTexts(ctx context.Context, room string, page *Page) error {
	if s.cache == nil || len(page.Events) == 0 {
		return nil
	}
	lacking := newTexts(s)
	marked := int64(-1)
	s.cache.hints.Mark(room, marked)
	for i := range page.Events {
		event := &page.Events[i]
		if part := event.Topological / hintDepths; part != marked {
			marked = part
			s.cache.hints.Mark(room, part)
		}
		lacking.add(event, page.versions[i])
	}
	batch := &pgx.Batch{}
	if lacking.queue(batch); batch.Len() == 0 {
		return nil
	}
	if err := s.tx.Send(ctx, batch); err != nil {
		return fmt.Errorf("read the texts of events: %w", err)
	}
	return nil
}

// texts complete events with their JSON and internal metadata.
type texts struct {
	s       *Snapshot
	lacking map[string]seenEvent
}

// A seenEvent is an event, and the version in which the snapshot has seen its row.
type seenEvent struct {
	event   *Event
	version rowcache.Version
}

func newTexts(s *Snapshot) texts { return texts{s, map[string]seenEvent{}} }

// add completes an event with the texts that the cache has of the version. If it has not,
// it keeps those that the event has, or notes that they lack.
func (t texts) add(event *Event, version rowcache.Version) {
	if cache := t.s.cache; cache != nil {
		if kept, ok := cache.texts.Get(event.ID, version, t.s.moment); ok {
			event.JSON, event.InternalMetadata, event.Prepared = kept.json, kept.metadata, kept.prepared
			return
		}
		if event.JSON != nil {
			t.s.keepText(event, version)
			return
		}
	}
	t.lacking[event.ID] = seenEvent{event, version}
}

// queue asks for the texts that lack, and has them kept.
func (t texts) queue(batch *pgx.Batch) {
	if len(t.lacking) == 0 {
		return
	}
	batch.Queue(`
		SELECT j.event_id, j.json, j.internal_metadata, j.xmin, j.ctid
		FROM event_json j WHERE j.event_id = ANY ($1::text[])`, slices.Collect(maps.Keys(t.lacking))).Query(func(rows pgx.Rows) error {
		var id string
		var json, metadata []byte
		var version versionColumns
		_, err := pgx.ForEachRow(rows, append([]any{&id, &json, &metadata}, version.columns()...), func() error {
			if lacks, asked := t.lacking[id]; asked && (t.s.cache == nil || lacks.version == version.version()) {
				lacks.event.JSON, lacks.event.InternalMetadata = json, metadata
				if t.s.cache != nil {
					t.s.keepText(lacks.event, lacks.version)
				}
				delete(t.lacking, id)
			}
			json, metadata = nil, nil
			return nil
		})
		if err == nil && len(t.lacking) > 0 {
			err = errTextGone
		}
		return err
	})
}

// maxText is the length of the longest text that is kept, in bytes. One event of 64 KiB, which
// users may send, would take the place of fifty others, and a page of such events that of all.
const maxText = 16 << 10

// keepText keeps the texts of an event, and what is prepared of them.
func (s *Snapshot) keepText(event *Event, version rowcache.Version) {
	if len(event.JSON)+len(event.InternalMetadata) > maxText {
		return
	}
	kept := &text{json: event.JSON, metadata: event.InternalMetadata}
	bytes := len(event.ID) + cap(kept.json) + cap(kept.metadata) + 64 // of the struct
	if prepare := s.cache.options.Prepare; prepare != nil {
		prepared, size := prepare(event)
		kept.prepared, event.Prepared = prepared, prepared
		bytes += size
	}
	s.cache.texts.Put(event.ID, kept, version, s.moment, bytes)
}

// versionColumns scan the version of a row, the columns xmin and ctid.
type versionColumns struct {
	transaction *uint32
	place       pgtype.TID
}

func (v *versionColumns) columns() []any { return []any{&v.transaction, &v.place} }

// version returns the version that was scanned, the zero Version for none.
func (v *versionColumns) version() rowcache.Version {
	if v.transaction == nil || !v.place.Valid {
		return rowcache.Version{}
	}
	return rowcache.Version{Transaction: *v.transaction, Block: v.place.BlockNumber, Offset: v.place.OffsetNumber}
}

// A cachedState is a state that the cache has of a group, in some version.
type cachedState struct {
	group int64
	state StateAt
}

// cachedStates returns the states that the cache has of the query's groups, and the
// groups of which it has none.
func (s *Snapshot) cachedStates(query VisibilityQuery) (cached []cachedState, others []int64) {
	if s.cache == nil {
		return nil, query.Groups
	}
	for _, group := range query.Groups {
		if state, ok := s.cache.states.Peek(keyOf(group, query.Reader)); ok {
			cached = append(cached, cachedState{group, state})
		} else {
			others = append(others, group)
		}
	}
	return cached, others
}

// queueVersions asks for the versions of state groups of the room.
func queueVersions(batch *pgx.Batch, room string, cached []cachedState, versions map[int64]rowcache.Version) {
	groups := make([]int64, len(cached))
	for i := range cached {
		groups[i] = cached[i].group
	}
	batch.Queue(`SELECT g.id, g.xmin, g.ctid FROM state_groups g WHERE g.id = ANY ($1::bigint[]) AND g.room_id = $2`, groups, room).
		Query(func(rows pgx.Rows) error {
			var group int64
			var version versionColumns
			_, err := pgx.ForEachRow(rows, append([]any{&group}, version.columns()...), func() error {
				versions[group] = version.version()
				return nil
			})
			return err
		})
}

// maxStatesKept is how many states of one walk are kept. A page that is read later mostly
// has the groups that are next in the chain.
const maxStatesKept = 1000

// keepStates keeps the states of the chains that were walked.
func (s *Snapshot) keepStates(reader string, chains chains, versions map[int64]rowcache.Version) {
	if s.cache == nil {
		return
	}
	groups := make([]int64, 0, len(versions))
	for group := range versions {
		groups = append(groups, group)
	}
	slices.Sort(groups) // the newest last, so that the oldest are forgotten first
	for _, group := range groups[max(0, len(groups)-maxStatesKept):] {
		if state, whole := chains.state(group); whole {
			bytes := len(reader) + len(state.HistoryVisibility) + len(state.JoinRules) + len(state.Member) + 64
			s.cache.states.Put(keyOf(group, reader), state, versions[group], s.moment, bytes)
		}
	}
}
