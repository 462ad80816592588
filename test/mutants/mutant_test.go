package mutants

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A mutant is a change that must make a test fail.
type mutant struct {
	// name says what the changed program does wrong.
	name string

	// file is the file that is changed, from the root of the repository. old is in it
	// exactly once, and is replaced by text.
	file, old, text string

	// dir is the package whose tests run. It defaults to that of the file. tests are
	// prefixes of the names of the tests that run, with spaces between them.
	dir, tests string
}

// root is the root of the repository.
const root = "../.."

// all are the mutants of all promises.
func all() map[string][]mutant {
	return map[string][]mutant{
		"every commit is a complete purge":                everyCommit,
		"no other owner writes, and no reader is cut off": oneOwner,
		"jobs and batches":                                jobsAndBatches,
		"a page shows all that relates to its events":     whatRelates,
		"a page from a cache is that of the database":     cachedPages,
		"jobs keep their host fast":                       gentle,
	}
}

// changed returns the file of the mutant after the change.
func (m mutant) changed() (string, error) {
	source, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("%s: the text is in %s %d times, and must be there once:\n%s", m.name, m.file, n, m.old)
	}
	return strings.Replace(string(source), m.old, m.text, 1), nil
}

// testedIn returns the folder of the package whose tests run.
func (m mutant) testedIn() string {
	if m.dir != "" {
		return m.dir
	}
	return filepath.Dir(m.file)
}

// A mutant that no longer applies tests nothing, and neither does one whose tests are gone.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	testNames := map[string][]string{}
	names := map[string]bool{}
	for promise, mutants := range all() {
		for _, m := range mutants {
			require.False(t, names[m.name], "two mutants of %s are called %s", promise, m.name)
			names[m.name] = true
			_, err := m.changed()
			require.NoError(t, err)
			require.NotEqual(t, m.old, m.text, m.name)
			dir := m.testedIn()
			if testNames[dir] == nil {
				testNames[dir] = testsOf(t, dir)
			}
			for prefix := range strings.FieldsSeq(m.tests) {
				require.True(t, slices.ContainsFunc(testNames[dir], func(name string) bool { return strings.HasPrefix(name, prefix) }),
					"%s: %s has no test %s", m.name, dir, prefix)
			}
		}
	}
	require.GreaterOrEqual(t, len(everyCommit), 40)
}

// testsOf returns the names of the tests of a package.
func testsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	require.NoError(t, err)
	var names []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(source), -1) {
			names = append(names, match[1])
		}
	}
	return names
}
