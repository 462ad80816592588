package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A report is what a run has done and found.
type report struct {
	started time.Time

	mu         sync.Mutex
	Seed       uint64
	Faults     map[string]int // by kind
	Counts     map[string]int
	Errors     map[string]int // lines of logs, by process and message
	Violations []string
	Duration   string
}

func newReport(seed uint64) *report {
	return &report{started: time.Now(), Seed: seed, Faults: map[string]int{}, Counts: map[string]int{}, Errors: map[string]int{}}
}

// violation records what must not happen. The first hundred are kept.
func (r *report) violation(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Violations) < 100 {
		r.Violations = append(r.Violations, fmt.Sprintf("%v: ", time.Since(r.started).Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

func (r *report) count(what string) { r.add(what, 1) }

func (r *report) add(what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Counts[what] += n
}

func (r *report) met(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Faults[kind]++
}

// logged counts a line of a log that has the level of an error.
func (r *report) logged(kind, line string) {
	if !strings.Contains(line, `"level":"ERROR"`) {
		return
	}
	var entry struct{ Msg, Error string }
	if json.Unmarshal([]byte(line), &entry) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := kind + ": " + entry.Msg
	if r.Errors[key]++; r.Errors[key] <= 3 {
		r.Errors[key+": "+entry.Error]++
	}
}

// write writes the report into the folder of LETHE_CHAOS_REPORT, if there is one, and shows
// it in the test's log.
func (r *report) write(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Duration = time.Since(r.started).Round(time.Second).String()
	text, err := json.MarshalIndent(r, "", "  ")
	require.NoError(t, err)
	if folder := os.Getenv("LETHE_CHAOS_REPORT"); folder != "" {
		require.NoError(t, os.MkdirAll(folder, 0o755))
		name := filepath.Join(folder, fmt.Sprintf("chaos-%d.json", r.Seed))
		require.NoError(t, os.WriteFile(name, text, 0o644))
		t.Log("the report is in " + name)
	}
	for _, counts := range []map[string]int{r.Faults, r.Counts, r.Errors} {
		for _, key := range slices.Sorted(maps.Keys(counts)) {
			t.Logf("%6d  %s", counts[key], key)
		}
	}
	for _, violation := range r.Violations {
		t.Error(violation)
	}
}

func (r *report) set(change func(*report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}
