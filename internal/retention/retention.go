package retention

import (
	"math"
	"time"
)

// A Config is what the operator says of retention. The zero Config keeps all.
type Config struct {
	// Enabled says that retention policies count at all. Defaults to false.
	Enabled bool

	// DefaultPolicy is the policy of a room that has none, and what a room's
	// policy leaves open. Defaults to no limits.
	DefaultPolicy Policy

	// AllowedLifetimeMin and AllowedLifetimeMax bound the lifetime by which a room
	// is purged, in ms, whatever its policy says; where they disagree, the second
	// wins. Defaults to nil, no bounds.
	AllowedLifetimeMin, AllowedLifetimeMax *int64

	// Jobs purge the rooms, each those that it covers. None keeps all events,
	// hidden or not. Defaults to none.
	Jobs []Job

	// Abandoned says which rooms are deleted altogether. Defaults to none.
	Abandoned Abandoned

	// ClampReads hides events from users by the lifetime within those bounds, by
	// which they are purged. Defaults to false: by the policy as it is.
	ClampReads bool
}

// A Policy is one room's, or the server's own. Lifetimes are in ms, below 0 as
// if 0; nil is no limit. MinLifetime has no effect.
type Policy struct {
	MinLifetime, MaxLifetime *int64
}

// HiddenBefore tells which events users no longer see of a room with the given
// policy, nil if it has none: those that are no state events and were sent
// before the time that is returned, in ms. It is false if none is hidden.
//
// Sent means by the sender's clock, whereas events are purged by when they
// arrived here: so an event may be hidden long before it goes, or for ever.
func (c Config) HiddenBefore(room *Policy, now time.Time) (before int64, hidden bool) {
	lifetime, limited := c.maxLifetime(room)
	if !c.Enabled || !limited {
		return 0, false
	}
	if c.ClampReads {
		lifetime = c.clamp(lifetime)
	}
	return ago(now, lifetime), true
}

// Lifetime tells by which lifetime a room with the given policy is purged, in
// ms, from 0; nil if it has none. It is false if nothing limits it, and the room
// is not to be purged.
func (c Config) Lifetime(room *Policy) (ms int64, limited bool) {
	lifetime, limited := c.maxLifetime(room)
	if !limited {
		return 0, false
	}
	return c.clamp(lifetime), true
}

// ExpiredBefore tells which events of a room with the given policy, nil if it
// has none, are to be purged: those that arrived here before the time that is
// returned, in ms. It is false if none is.
func (c Config) ExpiredBefore(room *Policy, now time.Time) (before int64, expires bool) {
	lifetime, limited := c.Lifetime(room)
	if !c.Enabled || !limited {
		return 0, false
	}
	return ago(now, lifetime), true
}

// maxLifetime is the room's max_lifetime, or else the default one, from 0.
func (c Config) maxLifetime(room *Policy) (ms int64, limited bool) {
	limit := c.DefaultPolicy.MaxLifetime
	if room != nil && room.MaxLifetime != nil {
		limit = room.MaxLifetime
	}
	if limit == nil {
		return 0, false
	}
	return max(*limit, 0), true
}

// clamp brings a lifetime within the allowed bounds.
func (c Config) clamp(lifetime int64) int64 {
	if c.AllowedLifetimeMin != nil {
		lifetime = max(lifetime, *c.AllowedLifetimeMin)
	}
	if c.AllowedLifetimeMax != nil {
		lifetime = min(lifetime, *c.AllowedLifetimeMax)
	}
	return max(lifetime, 0)
}

// ago is when something began that lasts lifetime ms, which are not negative,
// and ends now; the earliest time there is if that is earlier still.
func ago(now time.Time, lifetime int64) int64 {
	ms := now.UnixMilli()
	if ms < math.MinInt64+lifetime {
		return math.MinInt64
	}
	return ms - lifetime
}
