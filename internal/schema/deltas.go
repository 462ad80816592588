package schema

import (
	_ "embed"
	"strings"
)

// deltas names the changes of the schema that Synapse 1.160 applies to a new database,
// one a line, as the column file of applied_schema_deltas does.
//
//go:embed deltas.txt
var deltas string

// oldestDelta is the version from which all changes are listed. Older databases have
// changes of older versions too.
const oldestDelta = 73

var knownDeltas = func() map[string]bool {
	known := map[string]bool{}
	for file := range strings.SplitSeq(deltas, "\n") {
		known[file] = true
	}
	return known
}()

// KnownDelta reports whether Synapse's change of the schema is one that Lethe was tested
// with. file is the change's name in applied_schema_deltas.
func KnownDelta(version int, file string) bool { return version < oldestDelta || knownDeltas[file] }
