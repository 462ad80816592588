package lethe_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// documents returns the text of every Markdown file of the repository, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || name == ".lethe" || name == "bin" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".md":
			return nil
		}
		text, err := os.ReadFile(name)
		texts[name] = string(text)
		return err
	}))
	require.Contains(t, texts, "README.md")
	return texts
}

var (
	fencedBlock  = regexp.MustCompile("(?ms)^```.*?^```")
	indentedLine = regexp.MustCompile(`(?m)^    .*$`)
	codeSpan     = regexp.MustCompile("`[^`\n]*`")
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// TestLinksLeadSomewhere checks the links between documents, and their anchors.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	texts := documents(t)
	for name, text := range texts {
		prose := codeSpan.ReplaceAllString(indentedLine.ReplaceAllString(fencedBlock.ReplaceAllString(text, ""), ""), "")
		for _, found := range markdownLink.FindAllStringSubmatch(prose, -1) {
			link := found[1]
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			path, anchor, hasAnchor := strings.Cut(link, "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), filepath.FromSlash(path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s does not exist", name, link)
			} else if hasAnchor && !anchors(texts[target])[anchor] {
				t.Errorf("%s: no heading matches %s", name, link)
			}
		}
	}
}

// anchors returns the anchors of a document's headings, as GitHub makes them: in
// lower case, without punctuation, with hyphens for spaces.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(fencedBlock.ReplaceAllString(text, "")) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		found[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title))] = true
	}
	return found
}

// TestNamedTestsExist checks that every test that a document names exists.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	require.NoError(t, filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil {
				tests[function.Name.Name] = true
			}
		}
		return nil
	}))
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")
	count := 0
	for name, text := range documents(t) {
		for _, found := range named.FindAllStringSubmatch(text, -1) {
			count++
			if !tests[found[1]] {
				t.Errorf("%s: test %s does not exist", name, found[1])
			}
		}
	}
	require.NotZero(t, count)
}

// TestTableOfPackagesIsComplete compares the table in docs/how-it-works.md with the
// folders below cmd and internal that hold production code.
func TestTableOfPackagesIsComplete(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(documents(t)["docs/how-it-works.md"], "\n## The packages\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	path := regexp.MustCompile("`((?:cmd|internal)/[^`]*)`")
	var listed []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			for _, cell := range path.FindAllStringSubmatch(cells[1], -1) {
				listed = append(listed, cell[1])
			}
		}
	}
	var folders []string
	for folder := range productionFolders(t) {
		if !isForTests(folder) {
			folders = append(folders, folder)
		}
	}
	require.ElementsMatch(t, folders, listed, "listA has the folders, listB the table")
}

// TestWaitsForSynapseAreExplained compares the texts in the section "Waiting for Synapse"
// of docs/operating.md with those that the code writes into waits_for.
func TestWaitsForSynapseAreExplained(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(documents(t)["docs/operating.md"], "\n## Waiting for Synapse\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:waiting: |other )[^`]*)` \\|").FindAllStringSubmatch(section, -1) {
		explained = append(explained, row[1])
	}
	texts := waitsForTexts(t)
	for _, text := range texts {
		count := 0
		for _, beginning := range explained {
			if strings.HasPrefix(text, beginning) {
				count++
			}
		}
		require.Equal(t, 1, count, "explanations of %q", text)
	}
	for _, beginning := range explained {
		require.Condition(t, func() bool {
			return slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(text, beginning) })
		}, "nothing writes %q", beginning)
	}
}

// TestWaitsAreExplained compares the table in "What a job waits for" of docs/operating.md
// with the other texts that the code shows in waits_for.
func TestWaitsAreExplained(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(documents(t)["docs/operating.md"], "\n## What a job waits for\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		explained = append(explained, row[1])
	}
	source := func(name string) string {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(text)
	}
	control := source("internal/store/control/jobs.go")
	texts := regexp.MustCompile(`"((?:[a-z]+: |room's lock, )[^"]*)"`).FindAllStringSubmatch(control, -1)
	require.Greater(t, len(texts), 6)
	for _, text := range texts {
		require.True(t, slices.ContainsFunc(explained, func(beginning string) bool { return strings.HasPrefix(text[1], beginning) }), text[1])
	}
	all := control + source("internal/store/journal/holds.go") + source("internal/operator/operator.go") +
		source("internal/store/migrate/migrations/lethe/00012_control.sql") +
		source("internal/brake/brake.go") + source("internal/store/postgres/lock_watch.go") + source("internal/store/postgres/errors.go")
	for _, beginning := range explained {
		require.Regexp(t, `["']`+regexp.QuoteMeta(beginning), all, "nothing shows it")
	}
}

// waitsForTexts returns what jobs wait for, as the code writes it, with … for what only
// the running program knows.
func waitsForTexts(t *testing.T) (texts []string) {
	t.Helper()
	add := func(beginning string, text ast.Expr) {
		if literals := literalsOf(text); strings.Trim(literals, "…") != "" && !strings.HasPrefix(literals, "brake: ") {
			texts = append(texts, beginning+literals)
		}
	}
	require.NoError(t, filepath.WalkDir("internal", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.CallExpr:
				function := nameOf(n.Fun)
				switch {
				case function == "waiting" && literalsOf(n.Args[0]) != "Synapse …":
					add("waiting: ", n.Args[0])
				case function == "Lock" && len(n.Args) == 4: // of a Synapse: what its readers do
					add("waiting: Synapse ", n.Args[3])
				}
			case *ast.CompositeLit:
				for _, element := range n.Elts {
					field, ok := element.(*ast.KeyValueExpr)
					switch {
					case ok && nameOf(n.Type) == "Waiting" && nameOf(field.Key) == "Reason":
						add("waiting: ", field.Value)
					case ok && strings.EqualFold(nameOf(field.Key), "waitsFor"):
						add("", field.Value)
					}
				}
			}
			return true
		})
		return nil
	}))
	require.NotEmpty(t, texts)
	slices.Sort(texts)
	return slices.Compact(texts)
}

// nameOf returns the last part of a name, "" for any other expression.
func nameOf(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// literalsOf returns the text of an expression, with … for what is not a literal.
func literalsOf(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return regexp.MustCompile(`%[a-z]`).ReplaceAllString(text, "…")
		}
	case *ast.BinaryExpr:
		return literalsOf(e.X) + literalsOf(e.Y)
	case *ast.CallExpr:
		if nameOf(e.Fun) == "Sprintf" {
			return literalsOf(e.Args[0])
		}
	}
	return "…"
}
