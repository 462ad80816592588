package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// update has the reference written anew: `make docs`.
var update = flag.Bool("update", false, "write docs/configuration.md anew")

const (
	referenceFile = "../../docs/configuration.md"
	exampleFile   = "../../docs/config.example.yaml"
)

// An entry is a setting as the reference shows it. Its words are those of the
// Config's field, or, for a field of another package's struct, those of the
// example file.
type entry struct {
	setting
	words      string
	unset      bool   // there is no default
	byDefault  string // as a file or variable has it
	defaultSet bool   // whether the words tell a default at all
}

// TestReferenceIsFresh holds the reference against the code, as `make docs` writes
// it.
func TestReferenceIsFresh(t *testing.T) {
	t.Parallel()
	fresh := reference(entries(t))
	if *update {
		require.NoError(t, os.WriteFile(referenceFile, []byte(fresh), 0o644))
	}
	kept, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(kept), fresh), "docs/configuration.md is stale: run make docs")
}

// TestReferenceTellsTheDefaults sets each setting to what the reference says is its
// default, and finds the Config as it was.
func TestReferenceTellsTheDefaults(t *testing.T) {
	t.Parallel()
	for _, e := range entries(t) {
		require.True(t, e.defaultSet, "%s: its comment does not say what it defaults to", e.path)
		text := e.byDefault
		if e.unset {
			text = ""
		}
		// Those that cannot be set to nothing.
		if e.path == "synapse_beside" {
			require.Nil(t, Default().SynapseBeside)
			continue
		}
		if e.path == "retention.abandoned.cron" {
			require.Zero(t, Default().Retention.Rules.Abandoned.Cron)
			continue
		}
		config, err := Load([]string{variable(e.path) + "=" + text})
		require.NoError(t, err, e.path)
		require.Empty(t, cmp.Diff(Default(), config), e.path)
	}
}

// entries returns what the code says of each setting, by path.
func entries(t *testing.T) []entry {
	t.Helper()
	config := Default()
	comments, examples := fieldComments(t), exampleComments(t)
	var all []entry
	for _, s := range settings(&config) {
		e := entry{setting: s}
		if words, ok := comments[s.path]; ok {
			e.words, e.byDefault, e.defaultSet = cutDefault(words)
			e.unset = slices.Contains([]string{"", "nil", "none"}, e.byDefault)
		} else {
			example, ok := examples[s.path]
			require.True(t, ok, "%s has no comment in the Config, and is not in the example file", s.path)
			e.words, e.byDefault, e.defaultSet = example.comment, example.value, true
			e.unset = example.unset
		}
		require.NotEmpty(t, e.words, s.path)
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(sortKey(a.path), sortKey(b.path)) })
	return all
}

// sortKey puts the settings without a section first.
func sortKey(path string) string {
	if strings.Contains(path, ".") {
		return "1" + path
	}
	return "0" + path
}

// fieldComments returns the comments of the fields that name their setting, without
// the name, by path.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	named := regexp.MustCompile(`^\w+ \(([a-z0-9_.]+)\) (\w+)`)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var structs []*ast.StructType
	values := map[string]string{} // of constants
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.StructType:
				structs = append(structs, n)
			case *ast.ValueSpec:
				for i, value := range n.Values {
					if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
						values[n.Names[i].Name] = strings.Trim(literal.Value, `"`)
					}
				}
			}
			return true
		})
	}
	see := regexp.MustCompile(` See \[[\w.]+\]\.`)
	link := regexp.MustCompile(`\[(\w+)\]`)
	comments := map[string]string{}
	for _, s := range structs {
		for _, field := range s.Fields.List {
			text := strings.Join(strings.Fields(field.Doc.Text()), " ")
			found := named.FindStringSubmatch(text)
			if found == nil {
				continue
			}
			subject := "It "
			if found[2] == "are" {
				subject = "They "
			}
			text = subject + text[strings.Index(text, ") ")+2:]
			text = see.ReplaceAllString(text, "")
			comments[found[1]] = link.ReplaceAllStringFunc(text, func(l string) string {
				return "`" + values[strings.Trim(l, "[]")] + "`"
			})
		}
	}
	return comments
}

// cutDefault cuts a comment's last sentence off, which tells the default, and
// returns the value in it.
func cutDefault(comment string) (words, value string, ok bool) {
	words, sentence, ok := strings.Cut(comment, " Defaults to ")
	if quoted, found := strings.CutPrefix(sentence, `"`); found {
		value, _, _ = strings.Cut(quoted, `"`)
		return words, value, ok
	}
	value, _, _ = strings.Cut(strings.TrimSuffix(sentence, "."), ",")
	value, _, _ = strings.Cut(value, ":")
	return words, value, ok
}

// An example is a setting in the example file.
type example struct {
	comment string
	value   string
	unset   bool // it is only shown what it could be
}

// exampleComments returns what the example file says of each setting, by path.
func exampleComments(t *testing.T) map[string]example {
	t.Helper()
	data, err := os.ReadFile(exampleFile)
	require.NoError(t, err)
	key := regexp.MustCompile(`^( *)(#?)([a-z_]+):(.*)$`)
	examples := map[string]example{}
	var sections, comment []string
	above := ""
	note := func() { // what a list's mappings are is told among them
		if text := strings.Join(comment, " "); text != "" && len(sections) > 0 {
			path := strings.Join(sections, ".")
			e := examples[path]
			e.comment += " " + text
			examples[path] = e
		}
		comment = nil
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok {
			comment = append(comment, text)
			continue
		}
		found := key.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if found == nil && strings.TrimSpace(line) == "" {
			comment = nil
			continue
		}
		if found == nil || len(found[1])/2 > len(sections) {
			note()
			continue
		}
		sections = append(slices.Clone(sections[:len(found[1])/2]), found[3])
		e := example{
			comment: strings.Join(comment, " "), value: strings.TrimSpace(found[4]), unset: found[2] == "#" || found[4] == "",
		}
		if e.comment == "" { // it shares that of the line above
			e.comment = above
		}
		examples[strings.Join(sections, ".")] = e
		above, comment = e.comment, nil
	}
	return examples
}

// mayBe is what a setting's value may be, in the words of its refusal.
func mayBe(e entry) string {
	if e.mappings != nil {
		return strings.TrimPrefix(errMappings.Error(), "must be ")
	}
	for _, impossible := range []string{"\x00", "\x00://"} {
		if err := e.set(impossible); err != nil {
			return regexp.MustCompile(`^(number \d+: )?(must be |a Redis URL is )`).ReplaceAllString(err.Error(), "")
		}
	}
	if strings.HasSuffix(e.path, "_file") {
		return "the path of a file"
	}
	return "a text"
}

// reference is the whole document.
func reference(all []entry) string {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	section := ""
	for _, e := range all {
		of, _, ok := strings.Cut(e.path, ".")
		if !ok {
			of = "Of every process"
		} else {
			of = "`" + of + "`"
		}
		if of != section {
			section = of
			fmt.Fprintf(&b, "\n## %s\n", section)
		}
		fmt.Fprintf(&b, "\n### `%s`\n\n", e.path)
		value := "`" + e.byDefault + "`"
		if e.unset {
			value = "not set"
		}
		fmt.Fprintf(&b, "- variable: `%s`\n- value: %s\n- default: %s\n", variable(e.path), mayBe(e), value)
		if who := needers(e.setting); who != "" {
			fmt.Fprintf(&b, "- needed by: %s\n", who)
		}
		fmt.Fprintf(&b, "\n%s\n", wrap(e.words))
	}
	return b.String()
}

// wrap breaks a text into lines of 120 characters.
func wrap(text string) string {
	var b strings.Builder
	width := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case width == 0:
		case width+1+utf8.RuneCountInString(word) > 120:
			b.WriteByte('\n')
			width = 0
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += utf8.RuneCountInString(word)
	}
	return b.String()
}

// needers names the processes that do not start without the setting.
func needers(s setting) string {
	var names []string
	for _, p := range []struct {
		purpose Purpose
		name    string
	}{{ForAPI, "api"}, {ForWorker, "worker"}, {ForScheduler, "scheduler"}, {ForAsynqmon, "asynqmon"}, {ForDatabase, "lethe migrate, lethe doctor"}} {
		if slices.Contains(s.neededBy, p.purpose) {
			names = append(names, p.name)
		}
	}
	return strings.Join(names, ", ")
}

const referenceHead = `# Every setting

<!-- Written by "make docs" from the comments in internal/config; a test fails when it is stale. -->

A setting is a key in the YAML file that ` + "`LETHE_CONFIG`" + ` names, and an environment variable, which wins over the
file: ` + "`worker.time_slice`" + ` is ` + "`LETHE_WORKER_TIME_SLICE`" + `. A variable that is set but empty counts as set. Unknown
keys and unknown ` + "`LETHE_`" + ` variables are refused, and all mistakes are told at once, without repeating a value.
A secret may be in a file that its variable with ` + "`_FILE`" + ` behind it names, such as ` + "`LETHE_DATABASE_URL_FILE`" + `; only
one of the two may be set.
Settings are read once, at the start. [config.example.yaml](config.example.yaml) has all of them in one file to copy.
`
