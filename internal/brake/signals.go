package brake

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"lethe/internal/output"
)

// A Signal is a figure that the brake looks at.
type Signal string

// The signals. Each is the worst figure of its kind.
const (
	StandbySeconds  Signal = "standby_seconds"
	StandbyBytes    Signal = "standby_bytes"
	SlotBytes       Signal = "slot_bytes"
	ArchiveSegments Signal = "archive_segments"
	Autovacuums     Signal = "autovacuums"
	DiskBytes       Signal = "disk_bytes"
	XminAge         Signal = "xmin_age"
	LockWaits       Signal = "lock_waits"
	CommitSeconds   Signal = "commit_seconds"
	Query           Signal = "query"
)

// Limits are the soft and the hard limit of a signal. A nil limit does not limit.
type Limits struct {
	Soft, Hard *float64
}

// A kind says what a signal means.
type kind struct {
	signal Signal

	// falls says that low values are the bad ones, as of free space.
	falls bool

	// limits are those without a setting.
	limits Limits

	// says describes a value and what it is about, such as the name of a standby.
	says func(value float64, about string) string
}

func limits(soft, hard float64) Limits { return Limits{Soft: &soft, Hard: &hard} }

func softly(soft float64) Limits { return Limits{Soft: &soft} }

// kinds are the signals, in the order in which they are shown.
var kinds = []kind{
	{StandbySeconds, false, limits(2, 7), func(v float64, about string) string {
		return fmt.Sprintf("standby %s is %s s behind", about, number(v))
	}},
	{StandbyBytes, false, Limits{}, func(v float64, about string) string {
		return fmt.Sprintf("standby %s has %s of WAL to replay", about, bytes(v))
	}},
	{SlotBytes, true, limits(2<<30, 512<<20), func(v float64, about string) string {
		return fmt.Sprintf("the replication slot %s is lost after %s more of WAL", about, bytes(v))
	}},
	{ArchiveSegments, false, limits(64, 512), func(v float64, _ string) string {
		return "segments of WAL that wait for the archive: " + number(v)
	}},
	{Autovacuums, false, Limits{}, func(v float64, about string) string {
		if v == 0 {
			return "autovacuum is at no table of the homeserver"
		}
		return "autovacuum works on " + about
	}},
	{DiskBytes, true, limits(10<<30, 2<<30), func(v float64, about string) string {
		return fmt.Sprintf("%s are free at %s", bytes(v), about)
	}},
	{XminAge, false, Limits{}, func(v float64, _ string) string {
		return "transactions since the oldest snapshot: " + number(v)
	}},
	{LockWaits, false, limits(1, 20), func(v float64, _ string) string {
		return "sessions that wait for locks of Lethe: " + number(v)
	}},
	{CommitSeconds, false, softly(0.5), func(v float64, _ string) string {
		return "a commit took " + number(v) + " s"
	}},
	{Query, false, Limits{}, func(v float64, _ string) string {
		return "brake.prometheus_query returned " + number(v)
	}},
}

// Signals returns all signals, in the order in which they are shown.
func Signals() []Signal {
	var signals []Signal
	for _, k := range kinds {
		signals = append(signals, k.signal)
	}
	return signals
}

// Names returns the names of all signals, in the order in which they are shown.
func Names() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k.signal))
	}
	return names
}

// ParseSignal returns the signal of the name. An error names all of them.
func ParseSignal(name string) (Signal, error) {
	if s := Signal(name); slices.Contains(Signals(), s) {
		return s, nil
	}
	return "", fmt.Errorf("%q is not one of %s", name, strings.Join(Names(), ", "))
}

// Check refuses limits that make no sense: a negative one, and a hard limit that is reached
// before the soft one.
func (l Limits) Check(signal Signal) error {
	for name, limit := range map[string]*float64{"soft": l.Soft, "hard": l.Hard} {
		if limit != nil && (math.IsNaN(*limit) || math.IsInf(*limit, 0) || *limit < 0 && signal != Query) {
			return fmt.Errorf("the %s limit of %s must be a number of 0 or more", name, signal)
		}
	}
	if l.Soft == nil || l.Hard == nil {
		return nil
	}
	k := kindOf(signal)
	if k.falls && *l.Hard >= *l.Soft {
		return fmt.Errorf("the hard limit of %s must be below the soft one", signal)
	}
	if !k.falls && *l.Hard <= *l.Soft {
		return fmt.Errorf("the hard limit of %s must be above the soft one", signal)
	}
	return nil
}

// Default returns the limits of a signal without a setting. Those of [SlotBytes] are lower
// on a server that keeps little WAL for slots.
func Default(signal Signal) Limits { return kindOf(signal).limits }

// within returns the limits of a signal whose value cannot be more than whole: at most a
// half and an eighth of it. Otherwise a server could reach them with nothing to do, and
// jobs would wait for ever.
func (l Limits) within(whole float64) Limits {
	return limits(min(*l.Soft, whole/2), min(*l.Hard, whole/8))
}

func kindOf(signal Signal) kind {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.signal == signal })
	return kinds[max(i, 0)]
}

// reached reports whether a value has reached a limit.
func (k kind) reached(value float64, limit *float64) bool {
	if limit == nil {
		return false
	}
	if k.falls {
		return value <= *limit
	}
	return value >= *limit
}

// Worse reports whether a value of a signal is worse than another.
func Worse(signal Signal, value, than float64) bool {
	if kindOf(signal).falls {
		return value < than
	}
	return value > than
}

// minShare is the smallest share of its time for which a job works at a soft limit.
const minShare = 0.05

// share returns for which share of its time a job may work: 1 up to the soft limit, and
// less the nearer the hard one is. Without a hard limit it is a quarter beyond the soft one.
func (k kind) share(value float64, l Limits) float64 {
	switch {
	case k.reached(value, l.Hard):
		return 0
	case !k.reached(value, l.Soft):
		return 1
	case l.Hard == nil:
		return 0.25
	}
	left := (*l.Hard - value) / (*l.Hard - *l.Soft)
	return min(max(left*left, minShare), 1)
}

func number(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func bytes(v float64) string { return output.Size(int64(min(max(v, 0), 1<<62))) }

// vacuumed names up to three tables.
func vacuumed(tables []string) string {
	if len(tables) > 3 {
		return strings.Join(tables[:3], ", ") + " and " + output.Counted(len(tables)-3, "other table")
	}
	return strings.Join(tables, ", ")
}
