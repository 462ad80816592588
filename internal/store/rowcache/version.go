package rowcache

// A Version tells a version of a row from the others of the same row.
type Version struct {
	// Transaction is the id of the transaction that wrote the version, the column xmin.
	Transaction uint32

	// Block and Offset are the place of the version in the table, the column ctid.
	Block  uint32
	Offset uint16
}

// A Moment is the moment of a snapshot of a server.
type Moment struct {
	// Server is the time at which the server was started, in Unix microseconds. The ids of
	// transactions have a meaning only within one run of one server: a restored, copied or
	// promoted server may have used an id for something else.
	Server int64

	// Recovered is the time at which the server has recovered from the crash of one of its
	// processes, or any other number that each recovery changes. The server has not been
	// started again then. But it may have lost asynchronous commits that others have seen,
	// and uses the ids of these transactions again.
	Recovered int64

	// Oldest and Next are the bounds of the snapshot, in full ids of transactions: all
	// before Oldest had ended, and none from Next on had begun.
	Oldest, Next uint64
}

// sameRun reports whether both moments are of one run of one server.
func (m Moment) sameRun(other Moment) bool {
	return m.Server == other.Server && m.Recovered == other.Recovered
}

// firstTransaction is the first id of a usual transaction. Lower ones stand for those of
// which nothing else is known any more.
const firstTransaction = 3

// same reports whether two equal versions of a row, each seen at a moment, are one.
//
// A transaction that has ended writes no more, and leaves one version of a row. So an
// equal id means an equal version, unless it is the id of two transactions: ids have 32
// bits, and begin again. The later one of two different versions was then written by a
// transaction that one of the two snapshots did not see as ended, or as begun, and the
// other one did. If no id between these bounds has the same 32 bits, there was no such
// transaction. This covers frozen rows, which keep the id of a transaction that was long
// ago, and holds for either order of the moments.
func (v Version) same(other Version, a, b Moment) bool {
	if v != other || !a.sameRun(b) || v.Transaction < firstTransaction {
		return false
	}
	oldest, next := min(a.Oldest, b.Oldest), max(a.Next, b.Next)
	return uint64(v.Transaction-uint32(oldest)) >= next-oldest //nolint:gosec // the low 32 bits are meant
}
