package retention

import (
	"math"
	"time"
)

// A Config is the operator's settings of retention. The zero Config keeps all events.
type Config struct {
	// Enabled turns retention on. Defaults to false.
	Enabled bool

	// DefaultPolicy is the policy of a room that has none. It also applies where a
	// room's policy sets nothing. Defaults to no limits.
	DefaultPolicy Policy

	// AllowedLifetimeMin and AllowedLifetimeMax limit the lifetime by which a room
	// is purged, in ms, whatever its policy is. If they contradict each other, the
	// second wins. Defaults to nil: no limits.
	AllowedLifetimeMin, AllowedLifetimeMax *int64

	// Jobs purge the rooms that they cover. Without jobs all events are kept, also
	// hidden ones. Defaults to none.
	Jobs []Job

	// Abandoned says which rooms are deleted entirely. Defaults to none.
	Abandoned Abandoned

	// ClampReads hides events from users by the same limited lifetime by which they
	// are purged. Defaults to false: by the lifetime of the policy.
	ClampReads bool
}

// A Policy is the policy of a room or the default policy. Lifetimes are in ms, and a
// negative one counts as 0. A nil lifetime is no limit. MinLifetime has no effect.
type Policy struct {
	MinLifetime, MaxLifetime *int64
}

// HiddenBefore returns which events are hidden from users, in a room with the given
// policy, which is nil if the room has none: those that were sent before the returned
// time, in ms, except state events. It is false if no events are hidden.
//
// The time of sending is by the sender's clock, but events are purged by the time of
// arrival. So an event may be hidden long before it is purged, or for ever.
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

// Lifetime returns the lifetime, in ms, by which a room with the given policy is
// purged. The policy is nil if the room has none. Lifetime is false if the room has no
// limit and is not purged.
func (c Config) Lifetime(room *Policy) (ms int64, limited bool) {
	lifetime, limited := c.maxLifetime(room)
	if !limited {
		return 0, false
	}
	return c.clamp(lifetime), true
}

// ExpiredBefore returns which events are purged, in a room with the given policy,
// which is nil if the room has none: those that arrived before the returned time, in
// ms. It is false if no events are purged.
func (c Config) ExpiredBefore(room *Policy, now time.Time) (before int64, expires bool) {
	lifetime, limited := c.Lifetime(room)
	if !c.Enabled || !limited {
		return 0, false
	}
	return ago(now, lifetime), true
}

// maxLifetime returns the room's max_lifetime, or the default, but at least 0.
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

// clamp limits a lifetime to the allowed lifetimes.
func (c Config) clamp(lifetime int64) int64 {
	if c.AllowedLifetimeMin != nil {
		lifetime = max(lifetime, *c.AllowedLifetimeMin)
	}
	if c.AllowedLifetimeMax != nil {
		lifetime = min(lifetime, *c.AllowedLifetimeMax)
	}
	return max(lifetime, 0)
}

// ago returns the time that was lifetime ms before now, or the minimum on overflow.
// Lifetime must not be negative.
func ago(now time.Time, lifetime int64) int64 {
	ms := now.UnixMilli()
	if ms < math.MinInt64+lifetime {
		return math.MinInt64
	}
	return ms - lifetime
}
