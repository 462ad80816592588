package output_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/output"
)

func TestNumbersInWords(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"0 holds": output.Counted(0, "hold"), "1 hold": output.Counted(1, "hold"), "2 holds": output.Counted(2, "hold"),
		"-1 holds": output.Counted(-1, "hold"), "-1,000 holds": output.Counted(-1000, "hold"),
		"1,234,567 events": output.Counted(int64(1_234_567), "event"),
		"1 alias":          output.Counted(1, "alias"), "3 aliases": output.Counted(3, "alias"),
		"is": output.Agree(1, "is", "are"), "are": output.Agree(int64(0), "is", "are"),
		"-100": output.Count(-100), "1,000": output.Count(1000), "-9,223,372,036,854,775,808": output.Count(math.MinInt64),
	} {
		require.Equal(t, want, got)
	}
}

// An estimate of a time has as many digits as a reader wants, and no trace of how it was
// computed.
func TestFractionsAreShort(t *testing.T) {
	t.Parallel()
	for n, want := range map[float64]string{
		0: "0", 1.4855: "1.5", 0.5701296621004566: "0.57", 0.5: "0.5", 0.001: "0", 12345.678: "12345.7", 2.04: "2", 100: "100", -0.25: "-0.25",
	} {
		require.Equal(t, want, output.Fraction(n))
	}
	var text strings.Builder
	require.NoError(t, output.Raw(&text, json.RawMessage(`{"estimated_seconds": 0.5701296621004566, "depth": 1234567, "rates": {"a": {"seconds": 1.4855}}}`)))
	require.Regexp(t, `(?m)^estimated seconds +~0\.57$`, text.String())
	require.Regexp(t, `(?m)^depth +1234567$`, text.String())
	require.Regexp(t, `(?m)^a +1\.5$`, text.String())
}
