package output_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/output"
)

// TestEstimatesAreMarked prints documents with numbers that were counted, and others
// that were estimated.
func TestEstimatesAreMarked(t *testing.T) {
	t.Parallel()
	for document, want := range map[string][]string{
		`{"events": 7, "estimated_bytes": 2500000, "estimated_seconds": 1.5}`: {
			"events 7", "estimated bytes ~2.5 MB", "estimated seconds ~1.5",
		},
		`{"tables": {
			"events": {"rows": 7, "estimated_bytes": 9, "exact": true},
			"event_json": {"rows": 8, "estimated_bytes": 9, "exact": false}}}`: {
			"events 7 ~9 B true", "event_json ~8 ~9 B false",
		},
		`{"rooms": [
			{"room_id": "!a:x", "events": 7, "exact": false, "estimated_bytes": 9},
			{"room_id": "!b:x", "events": 6, "exact": true, "estimated_bytes": 8}]}`: {
			"!a:x ~7 false ~9 B", "!b:x 6 true ~8 B",
		},
	} {
		var text strings.Builder
		require.NoError(t, output.Raw(&text, json.RawMessage(document)))
		var lines []string
		for line := range strings.Lines(text.String()) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		for _, line := range want {
			require.Contains(t, lines, line)
		}
	}
}
