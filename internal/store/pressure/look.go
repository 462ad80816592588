package pressure

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/store/postgres"
)

// lookTime bounds one look.
const lookTime = 3 * time.Second

// A Reader reads the pressure on one database server. It is safe for concurrent use.
type Reader struct {
	db *postgres.DB
}

// New returns a Reader. It reads nothing yet.
func New(db *postgres.DB) *Reader { return &Reader{db: db} }

// A Look is what a Reader has seen. A nil number is unknown: the role may not see it, or the
// server has nothing to count.
type Look struct {
	// Written is the position in the WAL up to which the server has written, in bytes. It is
	// nil on a standby.
	Written *int64

	// Standbys are the connected standbys. Hidden says that the role sees that there are
	// some, and not how far they are.
	Standbys []Standby
	Hidden   bool

	// SlotBytes is how many bytes of WAL can still be written until the server invalidates
	// a replication slot, the least of all slots. It is nil if no slot has such a limit.
	SlotBytes *int64

	// SlotName is the slot of SlotBytes. SlotKeep is what SlotBytes is about when the slot
	// keeps no WAL, in bytes.
	SlotName string
	SlotKeep int64

	// ArchiveSegments is how many WAL segments wait to be archived. It is nil if the server
	// archives none.
	ArchiveSegments *int64

	// Autovacuums is how many workers of autovacuum are at the homeserver's tables, and
	// Vacuumed the names of these tables.
	Autovacuums *int64
	Vacuumed    []string

	// XminAge is how many transactions old the oldest snapshot is that keeps dead rows from
	// vacuum, whether a session, a slot or a prepared transaction holds it.
	XminAge *int64

	// LockWaits is how many sessions that are not Lethe's wait for a lock that one of
	// Lethe's holds.
	LockWaits *int64
}

// A Standby is a server, or a program, that receives the WAL.
type Standby struct {
	// Name is its application_name.
	Name string

	// Replayed is the position in the WAL up to which it has replayed, in bytes. One that
	// replays nothing, and a logical receiver, counts what it has received.
	Replayed int64
}

// Look reads all figures. It fails if the server does not answer within 3 s.
func (r *Reader) Look(ctx context.Context) (Look, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var look Look
	for _, read := range []func(context.Context, *Look) error{
		r.readStandbys, r.readSlots, r.readArchive, r.readAutovacuums, r.readXmin, r.readLockWaits,
	} {
		if err := read(ctx, &look); err != nil {
			return Look{}, fmt.Errorf("read the pressure on the server: %w", err)
		}
	}
	return look, nil
}
