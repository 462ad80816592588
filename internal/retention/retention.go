package retention

import "time"

// A Config is what the operator says of retention. The zero Config keeps all.
type Config struct {
	// Enabled says that retention policies count at all. Defaults to false.
	Enabled bool
}

// A Policy is one room's, or the server's own. Lifetimes are in ms; nil is no
// limit.
type Policy struct {
	MinLifetime, MaxLifetime *int64
}

// HiddenBefore tells which events users no longer see of a room with the given
// policy, nil if it has none: those that are no state events and were sent
// before the time that is returned, in ms. It is false if none is hidden.
func (c Config) HiddenBefore(room *Policy, now time.Time) (before int64, hidden bool) {
	panic("owned by another piece")
}
