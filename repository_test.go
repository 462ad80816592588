// Package lethe_test tests properties of the whole repository.
package lethe_test

import (
	"bytes"
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

	"github.com/stretchr/testify/require"
)

func TestEveryPackageHasADocFile(t *testing.T) {
	for folder := range productionFolders(t) {
		if strings.HasPrefix(folder, "cmd/") {
			continue
		}
		doc, err := parser.ParseFile(token.NewFileSet(), filepath.Join(folder, "doc.go"), nil, parser.ParseComments)
		if err != nil {
			t.Error(err)
		} else if !strings.HasPrefix(doc.Doc.Text(), "Package "+doc.Name.Name+" ") {
			t.Errorf("%s/doc.go has no comment that begins with Package %s", folder, doc.Name.Name)
		}
	}
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, files := range productionFolders(t) {
		for name, file := range files {
			for _, declaration := range file.Decls {
				for _, exported := range undocumented(declaration) {
					t.Errorf("%s: %s has no comment", name, exported)
				}
			}
		}
	}
}

func TestMainsOnlyWire(t *testing.T) {
	mains, err := filepath.Glob("cmd/*/main.go")
	require.NoError(t, err)
	for _, name := range mains {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if lines := bytes.Count(text, []byte("\n")); lines >= 100 {
			t.Errorf("%s has %d lines: move its code to a package", name, lines)
		}
	}
}

func TestProductionDoesNotImportTestPackages(t *testing.T) {
	forbidden := []string{
		"testing",
		"github.com/alicebob/miniredis",
		"github.com/google/go-cmp",
		"github.com/stretchr/testify",
		"go.uber.org/goleak",
		"pgregory.net/rapid",
	}
	for folder, files := range productionFolders(t) {
		if isForTests(folder) {
			continue
		}
		for name, file := range files {
			for _, spec := range file.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				isForbidden := slices.ContainsFunc(forbidden, func(f string) bool {
					return path == f || strings.HasPrefix(path, f+"/")
				})
				if isForbidden || strings.HasPrefix(path, "lethe/") && isForTests(path) {
					t.Errorf("%s imports %s, which is for tests", name, path)
				}
			}
		}
	}
}

// TestSizesStayBounded keeps what a reader has to hold in mind at once small: the
// lines of a package, the parameters of a function, the methods of a type with SQL.
func TestSizesStayBounded(t *testing.T) {
	const (
		maxLines      = 3000 // of a package
		maxParameters = 5    // besides a context
		maxMethods    = 30   // exported, of a type below internal/store
		maxInterface  = 5    // methods of an interface of ours
	)
	for folder, files := range productionFolders(t) {
		lines, methods := 0, map[string]int{}
		for name, file := range files {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			lines += bytes.Count(text, []byte("\n"))
			ast.Inspect(file, func(node ast.Node) bool {
				switch n := node.(type) {
				case *ast.FuncDecl:
					if n.Recv != nil && n.Name.IsExported() {
						methods[receiver(n.Recv.List[0].Type)]++
					}
				case *ast.FuncType:
					if parameters := countParameters(n); parameters > maxParameters {
						t.Errorf("%s: a function has %d parameters besides its context", name, parameters)
					}
				case *ast.InterfaceType:
					if n.Methods.NumFields() > maxInterface {
						t.Errorf("%s: an interface has %d methods", name, n.Methods.NumFields())
					}
				}
				return true
			})
		}
		if lines > maxLines {
			t.Errorf("%s has %d lines", folder, lines)
		}
		for name, n := range methods {
			if strings.HasPrefix(folder, "internal/store") && n > maxMethods {
				t.Errorf("%s: %s has %d exported methods", folder, name, n)
			}
		}
	}
}

// countParameters counts a function's parameters but for contexts.
func countParameters(function *ast.FuncType) (n int) {
	for _, field := range function.Params.List {
		if selector, ok := field.Type.(*ast.SelectorExpr); ok && selector.Sel.Name == "Context" {
			if from, ok := selector.X.(*ast.Ident); ok && from.Name == "context" {
				continue
			}
		}
		n += max(len(field.Names), 1)
	}
	return n
}

// TestWordsArePlain keeps words away that make a sentence hard to read.
func TestWordsArePlain(t *testing.T) {
	const maxInGo, maxInDocuments = 10, 5
	words := regexp.MustCompile(`(?i)\b(whoever|nobody|anew|is none|are none)\b`)
	count := func(texts map[string]string) (found []string) {
		for name, text := range texts {
			for _, word := range words.FindAllString(text, -1) {
				found = append(found, name+": "+word)
			}
		}
		return found
	}
	code := map[string]string{}
	for _, files := range productionFolders(t) {
		for name := range files {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			code[name] = string(text)
		}
	}
	require.LessOrEqual(t, len(count(code)), maxInGo, count(code))
	require.LessOrEqual(t, len(count(documents(t))), maxInDocuments, count(documents(t)))
}

// TestNumbersAgreeWithTheirWords finds texts for people such as "%d holds", which is wrong for
// one hold. output.Counted and output.Agree choose the words.
func TestNumbersAgreeWithTheirWords(t *testing.T) {
	plural := regexp.MustCompile(`%[ds] (?:more )?([a-z]+s)\b`)
	// Limits that are never 1, and words that are no plurals.
	fine := []string{"as", "bytes", "characters", "has", "is", "levels", "lists", "needs", "takes", "times", "was", "exists"}
	for folder, files := range productionFolders(t) {
		if !slices.Contains([]string{
			"internal/brake", "internal/cli", "internal/console", "internal/doctor", "internal/operator", "internal/plan", "internal/progress",
			"internal/store/beside", "internal/store/control", "internal/store/migrate", "internal/vacuum",
		}, folder) {
			continue
		}
		for name, file := range files {
			ast.Inspect(file, func(node ast.Node) bool {
				if text, ok := node.(*ast.BasicLit); ok && text.Kind == token.STRING {
					for _, found := range plural.FindAllStringSubmatch(text.Value, -1) {
						if !slices.Contains(fine, found[1]) {
							t.Errorf("%s: %s", name, found[0])
						}
					}
				}
				return true
			})
		}
	}
}

// isForTests reports whether a package is a test kit for other packages, as
// devstacktest is.
func isForTests(folder string) bool { return strings.HasSuffix(folder, "test") }

// productionFolders returns the Go files below cmd and internal except tests, by
// folder and name.
func productionFolders(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	folders := map[string]map[string]*ast.File{}
	for _, root := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			folder := filepath.ToSlash(filepath.Dir(name))
			if folders[folder] == nil {
				folders[folder] = map[string]*ast.File{}
			}
			folders[folder][name] = file
			return nil
		})
		require.NoError(t, err)
	}
	require.NotEmpty(t, folders)
	return folders
}

// undocumented returns a declaration's exported names that have no comment. The
// comment of a group of constants or variables covers the whole group.
func undocumented(declaration ast.Decl) []string {
	var names []string
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type))) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

// receiver returns the name of a receiver's type, also for *T and T[A].
func receiver(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
