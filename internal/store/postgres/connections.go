package postgres

import "time"

// Connections describes how the pool is used.
type Connections struct {
	// Open is the number of connections, including those that are being opened.
	// InUse is how many of them are taken. Max is the pool's size.
	Open, InUse, Max int

	// Waits counts the times that no connection was free, and Waited is the time spent
	// waiting for one. GivenUp counts the waits that ended because their context did.
	Waits, GivenUp int64
	Waited         time.Duration
}

// Connections returns how the pool is used, without asking the server. The
// connection for heartbeats does not count.
func (db *DB) Connections() Connections {
	stat := db.pool.Stat()
	return Connections{
		Open: int(stat.TotalConns()), InUse: int(stat.AcquiredConns()), Max: int(stat.MaxConns()),
		Waits: stat.EmptyAcquireCount(), Waited: stat.EmptyAcquireWaitTime(), GivenUp: stat.CanceledAcquireCount(),
	}
}
