package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

// update writes the generated documents: `make docs`.
var update = flag.Bool("update", false, "write docs/configuration.md and docs/config.example.yaml")

// TestReferenceIsFresh checks that both documents are what the table says, and
// writes them with -update.
func TestReferenceIsFresh(t *testing.T) {
	t.Parallel()
	for path, fresh := range map[string]string{
		"../../docs/configuration.md":    reference(),
		"../../docs/config.example.yaml": exampleFile(),
	} {
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(fresh), 0o644))
		}
		kept, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(string(kept), fresh), "%s is stale: run make docs", path)
	}
}

// TestReferenceTellsTheDefaults sets each setting to the default that the reference
// shows, and expects the same Config.
func TestReferenceTellsTheDefaults(t *testing.T) {
	t.Parallel()
	for _, s := range table() {
		config, err := Load([]string{variable(s.path) + "=" + s.defaultText})
		require.NoError(t, err, s.path)
		require.Empty(t, cmp.Diff(Default(), config, cmpopts.EquateComparable(netip.Prefix{})), s.path)
	}
}

// TestReferenceIsComplete checks that each row of the table has all its parts.
func TestReferenceIsComplete(t *testing.T) {
	t.Parallel()
	for _, s := range table() {
		require.Regexp(t, `^[A-Z](.|\n)*[.]$`, s.doc, "%s: the doc is one or more sentences", s.path)
		require.NotContains(t, s.doc, "Defaults to", "%s: the row has the default", s.path)
		require.NotEmpty(t, s.is, s.path)
		require.True(t, (s.set == nil) != (s.mappings == nil), s.path)
	}
}

// TestFieldsTellTheirDefaults checks the comments of the fields against the table.
func TestFieldsTellTheirDefaults(t *testing.T) {
	t.Parallel()
	// Other packages have the fields of these settings, or two settings share one.
	elsewhere := regexp.MustCompile(`\.tls_|^retention\.(abandoned|allowed|clamp|default|enabled|purge)`)
	comments := fieldComments(t)
	for _, s := range table() {
		if elsewhere.MatchString(s.path) {
			continue
		}
		comment, ok := comments[s.path]
		require.True(t, ok, "no field has a comment of %s", s.path)
		ends := []string{s.defaultText, `"` + s.defaultText + `"`}
		if s.defaultText == "" {
			ends = []string{`"", unset`, "nil, unset"}
		}
		require.True(t, slices.ContainsFunc(ends, func(end string) bool {
			return strings.HasSuffix(comment, " Defaults to "+end+".")
		}), "%s: the comment of its field does not end with its default", s.path)
	}
}

// table returns the rows of all settings.
func table() []setting {
	var config Config
	return settings(&config)
}

// fieldComments returns the comments of the fields that name their setting, by path.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	named := regexp.MustCompile(`^\w+ \(([a-z0-9_.]+)\) is `)
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	require.NoError(t, err)
	comments := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		if field, ok := node.(*ast.Field); ok {
			text := strings.Join(strings.Fields(field.Doc.Text()), " ")
			if found := named.FindStringSubmatch(text); found != nil {
				comments[found[1]] = text
			}
		}
		return true
	})
	return comments
}

// reference returns docs/configuration.md.
func reference() string {
	all := table()
	slices.SortFunc(all, func(a, b setting) int { return strings.Compare(sortKey(a.path), sortKey(b.path)) })
	var b strings.Builder
	b.WriteString(referenceHead)
	section := ""
	for _, s := range all {
		name, title := sectionOf(s.path), "Settings of every process"
		if name != "" {
			title = "`" + name + "`"
		}
		if title != section {
			section = title
			fmt.Fprintf(&b, "\n## %s\n", section)
			for _, path := range []string{name, name + ".abandoned"} {
				if doc, ok := sectionDocs[path]; ok {
					fmt.Fprintf(&b, "\n%s\n", wrap(quoteKeys(doc), 120))
				}
			}
		}
		byDefault := "`" + s.defaultText + "`"
		if s.defaultText == "" {
			byDefault = "not set"
		}
		fmt.Fprintf(&b, "\n### `%s`\n\n%s\n\n", s.path, wrap(quoteKeys(s.doc), 120))
		fmt.Fprintf(&b, "- variable: `%s`\n- value: %s\n- default: %s\n", variable(s.path), s.is, byDefault)
		if s.isSecret {
			fmt.Fprintf(&b, "- variable that names a file: `%s`\n", variable(s.path)+secretSuffix)
		}
		if names := neededBy(s); names != "" {
			fmt.Fprintf(&b, "- needed by: %s\n", names)
		}
	}
	return b.String()
}

// dottedKey matches the key of a setting that is in a section.
var dottedKey = regexp.MustCompile(`\b(api|asynqmon|database|homeserver|lock|log|messages|redis|retention|scheduler|worker)\.[a-z_]+(\.[a-z_]+)?`)

// quoteKeys shows the keys of settings as code.
func quoteKeys(text string) string { return dottedKey.ReplaceAllString(text, "`$0`") }

// sectionOf returns the first part of a path, "" for a setting without a section.
func sectionOf(path string) string {
	section, _, ok := strings.Cut(path, ".")
	if !ok {
		return ""
	}
	return section
}

// sortKey sorts the settings without a section first.
func sortKey(path string) string {
	if strings.Contains(path, ".") {
		return "1" + path
	}
	return "0" + path
}

// exampleFile returns docs/config.example.yaml.
func exampleFile() string {
	var b strings.Builder
	b.WriteString(exampleHead)
	var before []string // the sections of the row before
	for _, s := range table() {
		keys := strings.Split(s.path, ".")
		sections, name := keys[:len(keys)-1], keys[len(keys)-1]
		if len(sections) == 0 || len(before) == 0 || sections[0] != before[0] {
			b.WriteByte('\n')
		}
		for i := range sections {
			if len(before) <= i || !slices.Equal(before[:i+1], sections[:i+1]) {
				comment(&b, i, sectionDocs[strings.Join(sections[:i+1], ".")])
				fmt.Fprintf(&b, "%s%s:\n", indent(i), sections[i])
			}
		}
		before = sections
		depth := len(sections)
		comment(&b, depth, s.doc)
		if s.allowed != "" {
			comment(&b, depth, "Allowed: "+s.allowed+".")
		}
		if names := neededBy(s); names != "" {
			comment(&b, depth, "Needed by: "+names+".")
		}
		switch lines := strings.ReplaceAll(s.example, "\n", "\n"+indent(depth+1)); {
		case s.defaultText == "" && s.example == "":
			fmt.Fprintf(&b, "%s%s: \"\"\n", indent(depth), name)
		case s.defaultText == "":
			fmt.Fprintf(&b, "%s#%s: %s\n", indent(depth), name, lines)
		case s.example != "": // it is the default, in several lines
			fmt.Fprintf(&b, "%s%s:%s\n", indent(depth), name, lines)
		default:
			fmt.Fprintf(&b, "%s%s: %s\n", indent(depth), name, s.defaultText)
		}
	}
	return b.String()
}

func indent(depth int) string { return strings.Repeat("  ", depth) }

// comment writes a text as a comment of YAML.
func comment(b *strings.Builder, depth int, text string) {
	prefix := indent(depth) + "# "
	for line := range strings.Lines(wrap(text, 90-len(prefix))) {
		b.WriteString(strings.TrimRight(prefix+line, " \n") + "\n")
	}
}

// wrap breaks a text into lines of at most width characters. Empty lines between
// paragraphs stay.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			b.WriteString("\n\n")
			column = 0
		}
		for word := range strings.FieldsSeq(paragraph) {
			switch {
			case column == 0:
			case column+1+utf8.RuneCountInString(word) > width:
				b.WriteByte('\n')
				column = 0
			default:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += utf8.RuneCountInString(word)
		}
	}
	return b.String()
}

// neededBy names the processes that do not start without the setting.
func neededBy(s setting) string {
	var names []string
	for _, p := range []struct {
		purpose Purpose
		name    string
	}{
		{ForAPI, "api"},
		{ForWorker, "worker"},
		{ForScheduler, "scheduler"},
		{ForAsynqmon, "asynqmon"},
		{ForDatabase, "lethe migrate, lethe doctor, lethe hold"},
	} {
		if slices.Contains(s.neededBy, p.purpose) {
			names = append(names, p.name)
		}
	}
	return strings.Join(names, ", ")
}

const referenceHead = `# Settings

<!-- Written by "make docs" from the table of settings in internal/config. A test fails when this file is stale. -->

Each setting is a key in a YAML file and an environment variable. ` + "`LETHE_CONFIG`" + ` names the YAML file. The variable
` + "of `worker.time_slice` is `LETHE_WORKER_TIME_SLICE`" + `. If both are set, the variable wins, even when it is empty.

Settings that hold a secret can also be in a file of their own: ` + "`LETHE_DATABASE_URL_FILE`" + ` names a file that holds
` + "`database.url`" + `. Set only one of ` + "`LETHE_DATABASE_URL` and `LETHE_DATABASE_URL_FILE`" + `.

Lethe reads its settings once, when a process starts. It refuses unknown keys and unknown ` + "`LETHE_`" + ` variables. It
reports all mistakes at once, and never repeats a value in an error. [config.example.yaml](config.example.yaml) has
all settings in one file that you can copy.
`

const exampleHead = `# All settings of Lethe, with their defaults. LETHE_CONFIG names the file to use.
# This file is written by "make docs" from the table of settings in internal/config.
#
# Each setting is also an environment variable, which wins over the file:
# worker.time_slice is LETHE_WORKER_TIME_SLICE. configuration.md describes the rules.
#
# Durations have a unit: 300ms, 30s, 5m, 24h. A line that begins with "#" and no space
# is an example of a setting that has no default.
`
