package store

import "context"

// RetentionPolicy reads the retention policy of a room's current state. Lifetimes
// are in ms, nil where it has none. A room without a policy is [ErrNotFound].
func (s *Snapshot) RetentionPolicy(ctx context.Context, room string) (minLifetime, maxLifetime *int64, err error) {
	panic("owned by another piece")
}
