package lethe_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRename gives a copy of the repository another module path, in which every import has
// that path and a package with imports builds, and then the old path again.
func TestRename(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	before := tree(t, ".")
	for name, text := range before {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "scripts/") {
			mode = 0o755
		}
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
	}
	run := func(name string, args ...string) string {
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = folder
		said, err := command.CombinedOutput()
		require.NoError(t, err, "%s", said)
		return string(said)
	}

	const path = "example.org/matrix/lethe-2"
	run("scripts/rename", path)
	run("go", "build", "./internal/pace")
	require.Equal(t, path+" v0.0.0 => ../..\n", run("go", "-C", "deploy/validate", "list", "-m", path))
	renamed := tree(t, folder)
	for name, text := range renamed {
		if filepath.Ext(name) == ".go" && name != "rename_test.go" {
			require.NotContains(t, text, `"lethe/`, name)
			require.Equal(t, strings.Count(before[name], `"lethe/`), strings.Count(text, `"`+path+`/`), name)
		}
	}
	for _, name := range []string{"Makefile", "deploy/Dockerfile", ".goreleaser.yaml"} {
		require.Contains(t, renamed[name], "-X "+path+"/internal/version.version=", name)
	}
	for name, text := range renamed {
		if name != "rename_test.go" && name != "scripts/rename" {
			require.NotContains(t, text, "-X lethe/internal/version.", name)
		}
	}
	for _, invalid := range []string{"", "a b", "../x", "x/", "example.org/$(id)", "x\ny"} {
		command := exec.CommandContext(t.Context(), filepath.Join(folder, "scripts/rename"), invalid)
		require.Error(t, command.Run(), "%q", invalid)
	}
	require.Equal(t, renamed, tree(t, folder), "a refused path changes nothing")

	run("scripts/rename", "lethe")
	require.Equal(t, before, tree(t, folder))
}

// tree returns the text of every file of the repository below a folder, by name.
func tree(t *testing.T, folder string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		switch {
		case err != nil:
			return err
		case name == ".git" || name == ".lethe" || name == "bin":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		texts[filepath.ToSlash(name)] = string(text)
		return err
	}))
	require.Contains(t, texts, "go.mod")
	return texts
}
