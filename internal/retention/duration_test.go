package retention_test

import (
	"math"
	"math/big"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/retention"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "5": 5, "5s": 5 * second, "3m": 180 * second, "12h": 12 * hour, "1d": day, "2w": 14 * day, "1y": 365 * day,
		"007d": 7 * day, "9223372036854775807": math.MaxInt64, "9223372036854775s": 9223372036854775000, "292471208y": 292471208 * 365 * day,
	} {
		got, err := retention.ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "d", "-1", "-1d", "+1d", "1.5", "1.5d", "1e3", "true", "True", "null", "1D", "1ms", "1h30m", "1 d", " 1d", "1d ",
		"0x10", "1_000", "١d", "9223372036854775808", "9223372036854776s", "292471209y", "99999999999999999999y", "dd", "1dd", "\x001d",
	} {
		_, err := retention.ParseDuration(text)
		require.ErrorIs(t, err, retention.ErrDuration, "%q", text)
	}
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	for want, ms := range map[string]int64{
		"0": 0, "999": 999, "1s": 1000, "90m": 5400 * 1000, "36h": 36 * hour, "3d": 3 * day, "1w": 7 * day, "8d": 8 * day, "1y": 365 * day,
	} {
		require.Equal(t, want, retention.FormatDuration(ms))
	}
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.OneOf(
			rapid.Int64Min(0),
			rapid.Map(rapid.Int64Range(0, 1000), func(n int64) int64 { return n * hour }),
		).Draw(t, "ms")
		back, err := retention.ParseDuration(retention.FormatDuration(ms))
		require.NoError(t, err)
		require.Equal(t, ms, back)
	})
}

// TestDurationGrammar compares ParseDuration with the grammar, for numbers of any size.
func TestDurationGrammar(t *testing.T) {
	t.Parallel()
	grammar := regexp.MustCompile(`^([0-9]+)([smhdwy]?)$`)
	factors := map[string]int64{"": 1, "s": second, "m": 60 * second, "h": hour, "d": day, "w": 7 * day, "y": 365 * day}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching(`[0-9]{0,22}[smhdwy]?`),
			rapid.StringMatching(`[-+ .0-9a-z]{0,6}`),
			rapid.String(),
		).Draw(t, "text")
		got, err := retention.ParseDuration(text)
		parts := grammar.FindStringSubmatch(text)
		want := new(big.Int)
		if parts != nil {
			want.SetString(parts[1], 10)
			want.Mul(want, big.NewInt(factors[parts[2]]))
		}
		if parts == nil || !want.IsInt64() {
			require.ErrorIs(t, err, retention.ErrDuration)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Int64(), got)
	})
}
