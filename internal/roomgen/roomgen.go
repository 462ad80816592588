package roomgen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrExists is returned for a room whose id is taken.
var ErrExists = errors.New("the room exists already")

// A Database is a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Database interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// A Room says what room to make. Only Server must be set.
type Room struct {
	// Creator is the user id of the user of this server who makes the room and
	// has the power in it. Defaults to alice.
	Creator string

	// End is when the last event arrived. Defaults to now.
	End time.Time

	// Events is how many events the room has, but at least those that set it up
	// and let its members join. Defaults to 200.
	Events int

	// ID is the room's id. Defaults to one that is made of Seed and Server.
	ID string

	// LocalMembers is how many users of this server are in the room, of whom the
	// creator is one in any case. Those who have no account get one without a
	// password. Defaults to 4.
	LocalMembers int

	// Name is the room's first name. Defaults to "Room", and the seed.
	Name string

	// RemoteMembers is how many users of RemoteServer are in the room; none if
	// it is negative. Defaults to 3.
	RemoteMembers int

	// RemoteServer is the name of the other server. Defaults to "far.example".
	RemoteServer string

	// Seed makes one room differ from another. Defaults to 0.
	Seed uint64

	// Server is this server's name.
	Server string

	// Span is the time from the first event to the last. Defaults to 30 days.
	Span time.Duration

	// StateEvery is after how many events the topic or the name changes; never
	// if it is negative. Each change makes a state group. Defaults to 100.
	StateEvery int
}

// A Summary says what was made.
type Summary struct {
	// Room is the room's id, Name its name at the end, and Creator the user id
	// of its creator.
	Room, Name, Creator string

	// Events counts all events, StateEvents those of them that set state, and
	// StateGroups the states that the room was in.
	Events, StateEvents, StateGroups int

	// Middle is the id of the event half-way: one to purge up to.
	Middle string

	// LastDepth and LastStream are where the last event is in the room and in
	// the stream of all rooms.
	LastDepth, LastStream int64
}

// Generate makes a room, in one transaction. Its events come after all that the
// database has in the stream, whatever their times are. A second call with the
// same room fails with [ErrExists].
func Generate(ctx context.Context, db Database, room Room) (Summary, error) {
	summaries, err := generate(ctx, db, room)
	if err != nil {
		return Summary{}, fmt.Errorf("generate a room: %w", err)
	}
	return summaries[0], nil
}

func (r Room) withDefaults() Room {
	if r.Creator == "" {
		r.Creator = "@" + personName(0) + ":" + r.Server
	}
	if r.End.IsZero() {
		r.End = time.Now()
	}
	if r.Events == 0 {
		r.Events = 200
	}
	if r.ID == "" {
		r.ID = roomID(r.Seed, r.Server)
	}
	if r.LocalMembers == 0 {
		r.LocalMembers = 4
	}
	if r.Name == "" {
		r.Name = fmt.Sprintf("Room %d", r.Seed)
	}
	if r.RemoteMembers == 0 {
		r.RemoteMembers = 3
	}
	if r.RemoteServer == "" {
		r.RemoteServer = "far.example"
	}
	if r.Span == 0 {
		r.Span = 30 * 24 * time.Hour
	}
	if r.StateEvery == 0 {
		r.StateEvery = 100
	}
	return r
}

// members returns who joins, in this order. The creator is the first.
func (r Room) members() []member {
	all := []member{{id: r.Creator, local: true}}
	for i := 0; len(all) < r.LocalMembers; i++ {
		if id := "@" + personName(i) + ":" + r.Server; id != r.Creator {
			all = append(all, member{id: id, local: true})
		}
	}
	for i := range r.RemoteMembers {
		all = append(all, member{id: "@" + personName(-1-i) + ":" + r.RemoteServer})
	}
	return all
}

// Demo makes three rooms to try things on, of 20,000, 2,000 and 200 events, the
// last of which arrived at the time given. A second call fails with [ErrExists].
func Demo(ctx context.Context, db Database, server string, now time.Time) ([]Summary, error) {
	const day = 24 * time.Hour
	summaries, err := generate(
		ctx, db,
		Room{
			Server: server, Seed: 1, Name: "Town square", Events: 20_000, LocalMembers: 12, RemoteMembers: 12,
			Span: 365 * day, End: now,
		},
		Room{
			Server: server, Seed: 2, Name: "Reading circle", Events: 2_000, LocalMembers: 6, RemoteMembers: 4,
			Span: 90 * day, End: now,
		},
		Room{
			Server: server, Seed: 3, Name: "Kitchen table", Events: 200, LocalMembers: 3, RemoteMembers: -1,
			Span: 7 * day, End: now,
		},
	)
	if err != nil {
		return nil, fmt.Errorf("generate the demo rooms: %w", err)
	}
	return summaries, nil
}
