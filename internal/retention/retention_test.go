package retention_test

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/retention"
)

const (
	second = int64(1000)
	hour   = 3600 * second
	day    = 24 * hour
)

// some returns a policy with the max_lifetime.
func some(lifetime int64) *retention.Policy { return &retention.Policy{MaxLifetime: new(lifetime)} }

func TestHiddenBefore(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1000 * day)
	byDefault := retention.Policy{MaxLifetime: new(3 * day)}
	for name, test := range map[string]struct {
		config retention.Config
		room   *retention.Policy
		want   int64 // before now
		hidden bool
	}{
		"disabled":               {config: retention.Config{DefaultPolicy: byDefault}, room: some(day)},
		"nothing set":            {config: retention.Config{Enabled: true}},
		"empty policy":           {config: retention.Config{Enabled: true}, room: &retention.Policy{}},
		"only min_lifetime":      {config: retention.Config{Enabled: true}, room: &retention.Policy{MinLifetime: new(day)}},
		"room's":                 {config: retention.Config{Enabled: true}, room: some(day), want: day, hidden: true},
		"default's":              {config: retention.Config{Enabled: true, DefaultPolicy: byDefault}, want: 3 * day, hidden: true},
		"room's over default's":  {config: retention.Config{Enabled: true, DefaultPolicy: byDefault}, room: some(9 * day), want: 9 * day, hidden: true},
		"default's fills a hole": {config: retention.Config{Enabled: true, DefaultPolicy: byDefault}, room: &retention.Policy{MinLifetime: new(9 * day)}, want: 3 * day, hidden: true},
		"zero hides all":         {config: retention.Config{Enabled: true, DefaultPolicy: byDefault}, room: some(0), want: 0, hidden: true},
		"negative is zero":       {config: retention.Config{Enabled: true, DefaultPolicy: byDefault}, room: some(math.MinInt64), want: 0, hidden: true},
		"not clamped": {
			config: retention.Config{Enabled: true, AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(2 * day)},
			room:   some(hour), want: hour, hidden: true,
		},
		"clamped from below": {
			config: retention.Config{Enabled: true, ClampReads: true, AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(2 * day)},
			room:   some(hour), want: day, hidden: true,
		},
		"clamped from above": {
			config: retention.Config{Enabled: true, ClampReads: true, AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(2 * day)},
			room:   some(9 * day), want: 2 * day, hidden: true,
		},
		"nothing to clamp": {config: retention.Config{Enabled: true, ClampReads: true, AllowedLifetimeMax: new(day)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, hidden := test.config.HiddenBefore(test.room, now)
			require.Equal(t, test.hidden, hidden)
			if hidden {
				require.Equal(t, now.UnixMilli()-test.want, before)
			}
		})
	}
}

// TestCappingOrder tests the order in which the allowed lifetimes apply.
func TestCappingOrder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lifetime, low, high int64
		want                int64
	}{
		{hour, day, 2 * day, day},
		{3 * day, day, 2 * day, 2 * day},
		{day, day, day, day},
		// Settings with contradicting bounds are refused. Otherwise the upper bound
		// would win.
		{hour, 2 * day, day, day},
		{3 * day, 2 * day, day, day},
		{0, day, 2 * day, day},
		{-5, day, 2 * day, day},
	} {
		config := retention.Config{AllowedLifetimeMin: new(test.low), AllowedLifetimeMax: new(test.high)}
		got, limited := config.Lifetime(some(test.lifetime))
		require.True(t, limited)
		require.Equal(t, test.want, got, "%+v", test)
	}
	_, limited := retention.Config{AllowedLifetimeMax: new(day)}.Lifetime(&retention.Policy{MinLifetime: new(hour)})
	require.False(t, limited, "bounds must not count as a lifetime")
}

// drawPolicy draws any policy, or none, that a hostile database may contain.
func drawPolicy(t *rapid.T, label string) *retention.Policy {
	if rapid.IntRange(0, 3).Draw(t, label+" none") == 0 {
		return nil
	}
	return &retention.Policy{
		MinLifetime: drawLifetime(t, label+" min"),
		MaxLifetime: drawLifetime(t, label+" max"),
	}
}

func drawLifetime(t *rapid.T, label string) *int64 {
	return rapid.OneOf(
		rapid.Just[*int64](nil),
		rapid.Custom(func(t *rapid.T) *int64 { return new(rapid.Int64Range(-3, 10).Draw(t, "few")) }),
		rapid.Custom(func(t *rapid.T) *int64 { return new(rapid.Int64().Draw(t, "any")) }),
		rapid.Custom(func(t *rapid.T) *int64 {
			return new(rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64}).Draw(t, "extreme"))
		}),
	).Draw(t, label)
}

// since returns now - lifetime, or the minimum on overflow.
func since(now time.Time, lifetime int64) int64 {
	n := new(big.Int).Sub(big.NewInt(now.UnixMilli()), big.NewInt(lifetime))
	if !n.IsInt64() {
		return math.MinInt64
	}
	return n.Int64()
}

func TestTimesNeverOverflow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		config := retention.Config{
			Enabled:            true,
			DefaultPolicy:      retention.Policy{MaxLifetime: drawLifetime(t, "default")},
			AllowedLifetimeMin: drawLifetime(t, "allowed min"),
			AllowedLifetimeMax: drawLifetime(t, "allowed max"),
			ClampReads:         rapid.Bool().Draw(t, "clamp"),
		}
		room := drawPolicy(t, "room")
		now := time.UnixMilli(rapid.Int64().Draw(t, "now"))

		lifetime, limited := config.Lifetime(room)
		expired, expires := config.ExpiredBefore(room, now)
		hidden, hides := config.HiddenBefore(room, now)
		require.Equal(t, limited, expires)
		require.Equal(t, limited, hides)
		if !limited {
			return
		}
		require.GreaterOrEqual(t, lifetime, int64(0))
		require.Equal(t, since(now, lifetime), expired)
		require.LessOrEqual(t, hidden, now.UnixMilli())
		if config.ClampReads {
			require.Equal(t, expired, hidden)
		}

		config.Enabled = false
		_, hides = config.HiddenBefore(room, now)
		_, expires = config.ExpiredBefore(room, now)
		require.False(t, hides || expires, "disabled")
	})
}
