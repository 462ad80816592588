package brake

import (
	"cmp"
	"math"
	"slices"
	"time"

	"lethe/internal/store/pressure"
)

const (
	// lagMemory is how long positions of the WAL are remembered, and so the longest lag
	// that is known. rateTime is the time over which a standby's speed is measured.
	lagMemory = 15 * time.Minute
	rateTime  = 5 * time.Second
)

// A position is how far the WAL was at a time, in bytes.
type position struct {
	at    time.Time
	bytes int64
}

// A lagMeter measures how many seconds standbys are behind. pg_stat_replication's
// replay_lag is of no use for that: it says how long the WAL took that the standby has
// replayed last, and nothing of the WAL that waits. A standby that replays a fifth of what
// is written is then four seconds behind after five, and sixteen more when the writing ends.
//
// A lag is therefore the greater of two times: how long ago the server was where the
// standby is now, and how long the standby needs for the rest at its present speed.
type lagMeter struct {
	// written are positions of the server, the oldest first, and replayed those of each
	// standby within rateTime.
	written  []position
	replayed map[string][]position

	// missing is when a wanted standby was seen last.
	missing map[string]time.Time
}

func newLagMeter() *lagMeter {
	return &lagMeter{replayed: map[string][]position{}, missing: map[string]time.Time{}}
}

// A lag is how far a standby is behind.
type lag struct {
	name    string
	seconds float64
	bytes   int64
}

// look notes what was seen, and returns how far the standbys are behind: those with the
// wanted names, or all if none is wanted. One that is wanted and not connected is behind by
// the time since it was seen last.
func (m *lagMeter) look(now time.Time, seen pressure.Look, wanted []string) []lag {
	if seen.Written == nil {
		return nil
	}
	if n := len(m.written); n > 0 && *seen.Written < m.written[n-1].bytes {
		// Another server has taken its place, and the positions say nothing of this one.
		m.written = nil
		clear(m.replayed)
	}
	m.written = append(m.written, position{now, *seen.Written})
	m.written = slices.DeleteFunc(m.written, func(p position) bool { return now.Sub(p.at) > lagMemory })
	var lags []lag
	connected := map[string]bool{}
	for _, standby := range slowest(seen.Standbys) {
		if len(wanted) > 0 && !slices.Contains(wanted, standby.Name) {
			continue
		}
		connected[standby.Name] = true
		lags = append(lags, lag{
			name: standby.Name, seconds: m.seconds(now, standby), bytes: max(*seen.Written-standby.Replayed, 0),
		})
	}
	for name := range m.replayed {
		if !connected[name] {
			delete(m.replayed, name)
		}
	}
	for _, name := range wanted {
		if connected[name] || m.missing[name].IsZero() {
			m.missing[name] = now
		}
		if !connected[name] && !seen.Hidden {
			lags = append(lags, lag{name: name, seconds: now.Sub(m.missing[name]).Seconds()})
		}
	}
	return lags
}

// slowest returns the standbys, and of those with the same name the one that is the
// furthest behind: many keep the name that receivers of WAL have by default.
func slowest(standbys []pressure.Standby) []pressure.Standby {
	standbys = slices.SortedFunc(slices.Values(standbys), func(a, b pressure.Standby) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Replayed, b.Replayed))
	})
	return slices.CompactFunc(standbys, func(a, b pressure.Standby) bool { return a.Name == b.Name })
}

// seconds returns how far a standby is behind. Its speed is measured from when it was last
// up to date, because a standby that has nothing to do is not slow.
func (m *lagMeter) seconds(now time.Time, standby pressure.Standby) float64 {
	positions := append(m.replayed[standby.Name], position{now, standby.Replayed})
	// The last position before rateTime is where the measured time begins.
	for len(positions) > 2 && now.Sub(positions[1].at) >= rateTime {
		positions = positions[1:]
	}
	m.replayed[standby.Name] = positions
	behind := m.written[len(m.written)-1].bytes - standby.Replayed
	if behind <= 0 {
		m.replayed[standby.Name] = positions[len(positions)-1:]
		return 0
	}
	// The standby has yet to replay the first position beyond its own.
	since := 0.0
	for _, p := range m.written {
		if p.bytes > standby.Replayed {
			since = now.Sub(p.at).Seconds()
			break
		}
	}
	first := positions[0]
	took := now.Sub(first.at).Seconds()
	speed := float64(standby.Replayed-first.bytes) / math.Max(took, 1e-3)
	if took <= 0 || speed <= 0 {
		return since
	}
	return math.Max(since, float64(behind)/speed)
}
