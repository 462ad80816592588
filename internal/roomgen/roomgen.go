package roomgen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrExists is returned if a room with the id exists.
var ErrExists = errors.New("the room exists already")

// A Database is a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Database interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// A Room describes a room to generate. Only Server is required.
type Room struct {
	// Creator is the user id of the room's creator, a user of this server. Defaults
	// to alice.
	Creator string

	// End is when the last event arrives. Defaults to now.
	End time.Time

	// Events is the number of events. The room has at least the events that set it
	// up and the joins of its members. Defaults to 200.
	Events int

	// ID is the room's id. Defaults to one made from Seed and Server.
	ID string

	// LocalMembers is the number of members of this server, including the creator.
	// Members without an account get one without a password. Defaults to 4.
	LocalMembers int

	// Name is the room's first name. Defaults to "Room" and the seed.
	Name string

	// RemoteMembers is the number of members of RemoteServer. A negative number
	// means no members. Defaults to 3.
	RemoteMembers int

	// RemoteServer is the name of the other server. Defaults to "far.example".
	RemoteServer string

	// Seed distinguishes rooms. Defaults to 0.
	Seed uint64

	// Server is this server's name.
	Server string

	// Span is the time from the first event to the last. Defaults to 30 days.
	Span time.Duration

	// StateEvery is the number of events between two changes of the topic or the
	// name. A negative number means no changes. Each change adds a state group.
	// Defaults to 100.
	StateEvery int
}

// A Summary describes a generated room.
type Summary struct {
	// Room is the room's id, Name its final name, and Creator the user id of its
	// creator.
	Room, Name, Creator string

	// Events is the number of all events, StateEvents the number of state events,
	// and StateGroups the number of state groups.
	Events, StateEvents, StateGroups int

	// Middle is the id of the middle event, up to which tests may purge.
	Middle string

	// LastDepth and LastStream are the last event's depth and stream ordering.
	LastDepth, LastStream int64
}

// Generate generates a room in one transaction. In the stream its events follow all
// existing events, whatever their times are. A second call with the same room fails
// with [ErrExists].
func Generate(ctx context.Context, db Database, room Room) (Summary, error) {
	summaries, err := generate(ctx, db, room)
	if err != nil {
		return Summary{}, fmt.Errorf("generate a room: %w", err)
	}
	return summaries[0], nil
}

func (r Room) withDefaults() Room {
	r.Creator = cmp.Or(r.Creator, "@"+personName(0)+":"+r.Server)
	r.End = cmp.Or(r.End, time.Now())
	r.Events = cmp.Or(r.Events, 200)
	r.ID = cmp.Or(r.ID, roomID(r.Seed, r.Server))
	r.LocalMembers = cmp.Or(r.LocalMembers, 4)
	r.Name = cmp.Or(r.Name, fmt.Sprintf("Room %d", r.Seed))
	r.RemoteMembers = cmp.Or(r.RemoteMembers, 3)
	r.RemoteServer = cmp.Or(r.RemoteServer, "far.example")
	r.Span = cmp.Or(r.Span, 30*24*time.Hour)
	r.StateEvery = cmp.Or(r.StateEvery, 100)
	return r
}

// members returns the members in the order of their joins. The creator is the first.
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

// Demo generates three demo rooms, of 20,000, 2,000 and 200 events. The last event
// arrives at now. A second call fails with [ErrExists].
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
