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
