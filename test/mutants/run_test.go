//go:build mutants

package mutants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testTime bounds the tests of one mutant. A mutant that runs longer is killed.
const testTime = 3 * time.Minute

// TestMutantsAreKilled fails for each mutant that survives its tests.
// LETHE_MUTANTS is a regular expression for those that run, by promise and name, such as
// "every commit is a complete purge: relations of deleted events stay".
func TestMutantsAreKilled(t *testing.T) {
	wanted := regexp.MustCompile(os.Getenv("LETHE_MUTANTS"))
	var killed, survived []string
	// A test that fails without a mutant says nothing.
	passes := map[string]bool{}
	for _, promise := range slices.Sorted(maps.Keys(all())) {
		for _, m := range all()[promise] {
			if !wanted.MatchString(promise + ": " + m.name) {
				continue
			}
			key := m.testedIn() + " " + m.tests
			if !passes[key] {
				output, err := m.test(t.Context(), "")
				require.NoError(t, err, "without a mutant: %s\n%s", key, output)
				require.NotContains(t, output, "no tests to run", key)
				passes[key] = true
			}
			begun := time.Now()
			err := m.survives(t)
			text := fmt.Sprintf("%s: %s (%.0f s)", promise, m.name, time.Since(begun).Seconds())
			if err != nil {
				survived = append(survived, text)
				t.Errorf("survived %s", text)
				continue
			}
			killed = append(killed, text)
			t.Logf("killed %s", text)
		}
	}
	t.Logf("killed %d, survived %d\n%s", len(killed), len(survived), strings.Join(survived, "\n"))
}

var errSurvived = errors.New("all tests pass")

// survives returns errSurvived if the mutant's tests pass.
func (m mutant) survives(t *testing.T) error {
	t.Helper()
	text, err := m.changed()
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(m.file))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	original, err := filepath.Abs(filepath.Join(root, m.file))
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: file}})
	require.NoError(t, err)
	overlayFile := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	output, err := m.test(t.Context(), overlayFile)
	require.NotContains(t, output, "[build failed]", "%s: it must compile\n%s", m.name, output)
	require.NotContains(t, output, "[setup failed]", m.name)
	if err == nil {
		return errSurvived
	}
	return nil
}

// test runs the mutant's tests. It returns their output, and an error if one fails.
func (m mutant) test(ctx context.Context, overlay string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	args := []string{"test", "-count", "1", "-failfast", "-parallel", "4", "-timeout", testTime.String(), "-run", "^(" + strings.Join(strings.Fields(m.tests), "|") + ")"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	args = append(args, "./"+m.testedIn())
	if slices.Contains([]string{"internal/messages", "internal/store/purge", "internal/store/rowcache"}, m.testedIn()) {
		// A smaller example of the failure is of no use.
		args = append(args, "-rapid.shrinktime", "0s", "-rapid.nofailfile")
	}
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = root
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	return output.String(), err
}
