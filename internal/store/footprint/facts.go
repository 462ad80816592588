package footprint

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// Facts are what an operator should know of a room before a job begins.
type Facts struct {
	// Exists says that the homeserver knows the room.
	Exists bool

	// Users are some of this server's users who are joined to the room, are invited or
	// have knocked, in the order of their ids. UsersCount is how many there are.
	Users      []string
	UsersCount int64

	// Joined is how many of them are joined.
	Joined int64

	// Aliases are some of the room's aliases, in order, and AliasesCount how many there
	// are.
	Aliases      []string
	AliasesCount int64

	// Servers are some of the other servers with joined users, the one with most users
	// first. ServersCount is how many there are.
	Servers      []string
	ServersCount int64

	// Encrypted and Upgraded say that the room's current state has an m.room.encryption
	// or an m.room.tombstone event. Partial says that Synapse is still fetching the
	// room's state.
	Encrypted, Upgraded, Partial bool

	// Hold is the reason of the room's hold, nil if it is not held.
	Hold *string

	// Jobs are the kinds of the room's jobs that have not ended, the oldest first, up to
	// ten. HomeserverTask is the action of an open task of Synapse's own for the room, ""
	// if it has no open task.
	Jobs           []string
	HomeserverTask string

	// Highest is the highest depth of the room's forward extremities, nil if it has
	// none.
	Highest *int64

	// Now is the time of the database's clock in Unix milliseconds.
	Now int64
}

// listed is how many users, aliases or servers a list has at most.
const listed = 100

// roomFacts reads everything but lists of members. Unended states are those not listed,
// so that a state which a newer version adds counts as open.
const roomFacts = `
	SELECT EXISTS (SELECT FROM rooms WHERE room_id = $1),
	       ARRAY(SELECT a.room_alias FROM room_aliases a WHERE a.room_id = $1 ORDER BY a.room_alias LIMIT $2),
	       (SELECT count(*) FROM room_aliases a WHERE a.room_id = $1),
	       EXISTS (SELECT FROM current_state_events c WHERE c.room_id = $1 AND c.type = 'm.room.encryption' AND c.state_key = ''),
	       EXISTS (SELECT FROM current_state_events c WHERE c.room_id = $1 AND c.type = 'm.room.tombstone' AND c.state_key = ''),
	       EXISTS (SELECT FROM partial_state_rooms p WHERE p.room_id = $1),
	       (SELECT h.reason FROM lethe.holds h WHERE h.room_id = $1 AND h.released_at IS NULL ORDER BY h.id LIMIT 1),
	       ARRAY(
	         SELECT j.kind FROM lethe.jobs j
	         WHERE j.room_id = $1 AND j.state NOT IN ('complete', 'failed', 'cancelled') ORDER BY j.created_at, j.id LIMIT 10),
	       (SELECT max(e.depth) FROM event_forward_extremities x JOIN events e ON e.event_id = x.event_id WHERE x.room_id = $1),
	       floor(extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint`

const localMembers = `
	WITH members AS (
		SELECT m.user_id, m.membership FROM local_current_membership m
		WHERE m.room_id = $1 AND m.membership IN ('join', 'invite', 'knock')
	)
	SELECT ARRAY(SELECT user_id FROM members ORDER BY user_id LIMIT $2), count(*), count(*) FILTER (WHERE membership = 'join')
	FROM members`

// remoteServers counts the servers of joined members by an index. A member without a
// domain counts as one of this server.
const remoteServers = `
	WITH servers AS (
		SELECT substr(c.state_key, strpos(c.state_key, ':') + 1) AS name, count(*) AS users
		FROM current_state_events c
		WHERE c.room_id = $1 AND c.type = 'm.room.member' AND c.membership = 'join' AND strpos(c.state_key, ':') > 0
		GROUP BY 1
	)
	SELECT ARRAY(SELECT name FROM servers WHERE name <> $3 ORDER BY users DESC, name LIMIT $2), count(*) FROM servers WHERE name <> $3`

// openTask is an open task of Synapse's for the room.
const openTask = `
	SELECT coalesce((
		SELECT t.action FROM scheduled_tasks t
		WHERE t.resource_id = $1 AND t.action IN ('purge_history', 'purge_room', 'shutdown_and_purge_room')
		  AND t.status IN ('active', 'scheduled')
		ORDER BY t.timestamp, t.id LIMIT 1), '')`

// Facts reads the facts of a room.
func (s *Snapshot) Facts(ctx context.Context, room string) (f Facts, err error) {
	if err = s.tx.QueryRow(ctx, roomFacts, room, listed).Scan(&f.Exists, &f.Aliases, &f.AliasesCount, &f.Encrypted, &f.Upgraded,
		&f.Partial, &f.Hold, &f.Jobs, &f.Highest, &f.Now); err != nil {
		return Facts{}, fmt.Errorf("read the facts of the room: %w", err)
	}
	if err = s.tx.QueryRow(ctx, localMembers, room, listed).Scan(&f.Users, &f.UsersCount, &f.Joined); err != nil {
		return Facts{}, fmt.Errorf("list the room's local members: %w", err)
	}
	if err = s.tx.QueryRow(ctx, remoteServers, room, listed, s.options.ServerName).Scan(&f.Servers, &f.ServersCount); err != nil {
		return Facts{}, fmt.Errorf("list the room's servers: %w", err)
	}
	if s.has("scheduled_tasks") {
		if err = s.tx.QueryRow(ctx, openTask, room).Scan(&f.HomeserverTask); err != nil {
			return Facts{}, fmt.Errorf("look for an open task of the homeserver: %w", err)
		}
	}
	return f, nil
}

// A Rate is how fast jobs of a kind were, or the default if none have ended.
type Rate struct {
	// EventsPerSecond is the number of events that a job deletes each second, and
	// JobSeconds what a job takes besides.
	EventsPerSecond, JobSeconds float64

	// Measured says that jobs of this database were measured.
	Measured bool
}

// The defaults: a purge of many events on a small machine, and what a job needs to be
// enqueued, claimed and ended.
const (
	defaultEventsPerSecond = 2000
	defaultJobSeconds      = 0.5
)

// jobRate adds up the last jobs of the kind $1 that have deleted at least 1,000 events.
// Smaller ones measure the queue. A job that waited counts its wait, as the next may
// have to.
const jobRate = `
	SELECT coalesce(sum(j.events), 0), coalesce(sum(j.seconds), 0)
	FROM (
		SELECT (j.checkpoint ->> 'events_deleted'::text)::numeric::float8 AS events,
		       extract(epoch FROM j.ended_at - j.started_at)::float8 AS seconds
		FROM lethe.jobs j
		WHERE j.kind = $1 AND j.state = 'complete' AND j.ended_at > j.started_at
		  AND CASE WHEN jsonb_typeof(j.checkpoint -> 'events_deleted'::text) = 'number'
		           THEN (j.checkpoint ->> 'events_deleted'::text)::numeric BETWEEN 1000.0 AND 1e15 ELSE false END
		ORDER BY j.ended_at DESC LIMIT 20
	) j`

// Rate returns how fast jobs of the kind are.
func (s *Snapshot) Rate(ctx context.Context, kind string) (Rate, error) {
	rate := Rate{EventsPerSecond: defaultEventsPerSecond, JobSeconds: defaultJobSeconds}
	var events, seconds float64
	if err := s.tx.QueryRow(ctx, jobRate, kind).Scan(&events, &seconds); err != nil {
		return Rate{}, fmt.Errorf("read the rates of jobs: %w", err)
	}
	if events > 0 && seconds > 0 {
		rate.EventsPerSecond, rate.Measured = events/seconds, true
	}
	return rate, nil
}

// storable fails with [postgres.ErrNotFound] for a room id that no row can have.
func storable(room string) error {
	if room == "" || !postgres.Storable(room) {
		return fmt.Errorf("read the room's footprint: %w", postgres.ErrNotFound)
	}
	return nil
}
