package store

import "time"

// Connections is how the pool is used.
type Connections struct {
	// Open is how many connections there are, those that are being opened too; InUse
	// how many of them somebody has; and Most how many there may be.
	Open, InUse, Most int

	// Waits counts those who found no connection free, Waited is for how long they
	// have waited in all, and GivenUp counts those whose context ended before they
	// had one.
	Waits, GivenUp int64
	Waited         time.Duration
}

// Connections tells how the pool is used. That of heartbeats, which is one
// connection, does not count. It asks nobody, and returns at once.
func (s *Store) Connections() Connections {
	stat := s.pool.Stat()
	return Connections{
		Open: int(stat.TotalConns()), InUse: int(stat.AcquiredConns()), Most: int(stat.MaxConns()),
		Waits: stat.EmptyAcquireCount(), Waited: stat.EmptyAcquireWaitTime(), GivenUp: stat.CanceledAcquireCount(),
	}
}
