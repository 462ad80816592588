package lethe_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// madePaths are paths of this repository that its own commands make.
var madePaths = []string{
	"bin/", ".lethe", "docs/bench/recorded.txt", "deploy/compose/secrets/",
}

// foreignPaths are paths of a machine that do not come from a package of Lethe. A path
// that ends with a slash stands for all below it.
var foreignPaths = []string{
	"/etc/lethe/", // what administrators add there
	"/etc/matrix-synapse/", "/etc/nginx/conf.d/", "/etc/prometheus/", "/etc/ssl/", "/etc/systemd/system/", "/etc/synapse/",
	"/matrix/", // on a host of matrix-docker-ansible-deploy
	"/run/secrets/", "/usr/local/bin", "/usr/local/lib/lethe", "/var/lib/grafana/", "/var/run/postgresql", "/run/postgresql",
}

// foreignRequests are paths of requests that Lethe does not serve: those of Synapse and of
// Matrix Authentication Service.
var foreignRequests = []string{
	"/_matrix/client/r0/admin/", "/_matrix/client/v1/auth_metadata", "/_matrix/federation", "/_synapse/client",
	"/event", "/health", "/oauth2/introspect", "/relations", "/search", "/sync", "/threads",
}

// packagedPaths returns where the packages put files.
func packagedPaths(t *testing.T) (paths []string) {
	t.Helper()
	text, err := os.ReadFile(".goreleaser.yaml")
	require.NoError(t, err)
	var release struct {
		Nfpms []struct {
			Bindir   string
			Contents []struct{ Src, Dst string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &release))
	for _, content := range release.Nfpms[0].Contents {
		paths = append(paths, strings.TrimSuffix(content.Dst, "/"))
	}
	require.Greater(t, len(paths), 20)
	return append(paths, release.Nfpms[0].Bindir)
}

// isBelow reports whether a path is one of the paths, below one that ends with a slash, or
// a folder above one.
func isBelow(path string, paths []string) bool {
	return slices.ContainsFunc(paths, func(known string) bool {
		return path == strings.TrimSuffix(known, "/") || strings.HasSuffix(known, "/") && strings.HasPrefix(path, known) ||
			strings.HasPrefix(known, path+"/")
	})
}

// servedPaths returns the paths of the routes of docs/api.md, with parameters as they
// stand there.
func servedPaths(t *testing.T) (paths []string) {
	t.Helper()
	for _, found := range regexp.MustCompile("`(?:(?:GET|POST|PUT|DELETE) )?(/[^` ]+)`").FindAllStringSubmatch(documents(t)["docs/api.md"], -1) {
		if strings.HasPrefix(found[1], "/_") || slices.Contains([]string{"/healthz", "/readyz", "/metrics"}, found[1]) {
			paths = append(paths, found[1])
		}
	}
	require.Greater(t, len(paths), 50)
	return paths
}

// TestPathsInDocumentsExist checks the paths that documents name: files of this
// repository, files of the packages, and requests.
func TestPathsInDocumentsExist(t *testing.T) {
	t.Parallel()
	packaged, served := packagedPaths(t), servedPaths(t)
	requested := func(path string) bool {
		path, _, _ = strings.Cut(path, "?")
		path, _, _ = strings.Cut(path, "…")
		return isBelow(strings.TrimSuffix(path, "/"), append(slices.Clone(served), foreignRequests...)) ||
			slices.ContainsFunc(served, func(route string) bool { return strings.HasSuffix(route, path) || strings.Contains(route, path+"/") })
	}
	counts := map[string]int{}
	for name, text := range documents(t) {
		for _, span := range codeSpan.FindAllString(fencedBlock.ReplaceAllString(text, ""), -1) {
			path := strings.Trim(span, "`")
			if !regexp.MustCompile(`^[^\s=]*/[^\s=]*$`).MatchString(path) && !regexp.MustCompile(`^/[^\s]*$`).MatchString(path) {
				continue
			}
			first, _, _ := strings.Cut(path, "/")
			_, err := os.Stat(first)
			switch {
			case strings.HasPrefix(path, "/"):
				file := slices.ContainsFunc([]string{"/etc/", "/run/", "/usr/", "/var/", "/tmp/", "/lib/", "/opt/", "/matrix/"}, func(root string) bool { return strings.HasPrefix(path, root) })
				if counts["absolute"]++; !file && !requested(path) {
					t.Errorf("%s: no route of docs/api.md is %s", name, path)
				} else if file && !isBelow(strings.TrimSuffix(path, "/"), append(slices.Clone(packaged), foreignPaths...)) {
					t.Errorf("%s: nothing puts a file to %s", name, path)
				}
			case err == nil && first != "", slices.Contains([]string{"bin", "base", "overlays"}, first):
				counts["relative"]++
				if !exists(path) && !isBelow(path, madePaths) && !exists("deploy/kubernetes/"+path) {
					t.Errorf("%s: %s does not exist", name, path)
				}
			}
		}
	}
	require.Greater(t, counts["relative"], 40)
	require.Greater(t, counts["absolute"], 60)
}

// exists reports whether a path, or a pattern of paths, is in this repository.
func exists(pattern string) bool {
	found, err := filepath.Glob(strings.TrimSuffix(pattern, "/"))
	return err == nil && len(found) > 0
}

// namedFile matches a file of this repository in a text that is no document.
var namedFile = regexp.MustCompile(`(^|[^\w./-])((?:docs|deploy|scripts|internal|cmd|tools|test)/[\w./@-]*[\w])(#[\w-]+)?`)

// TestFilesNamedInCommentsExist checks the files of this repository that comments and
// commands of other files name: those of deploy, scripts, workflows and the Makefile.
func TestFilesNamedInCommentsExist(t *testing.T) {
	t.Parallel()
	texts := documents(t)
	files := []string{"Makefile", "docker-compose.yml", ".goreleaser.yaml", ".ci/run"}
	for _, root := range []string{"deploy", "scripts", ".github"} {
		require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "schemas" || entry.Name() == "secrets") {
				return skipped(err)
			}
			if entry.Type().IsRegular() && filepath.Ext(name) != ".go" && filepath.Ext(name) != ".sum" && filepath.Ext(name) != ".md" {
				files = append(files, name)
			}
			return nil
		}))
	}
	count := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, found := range namedFile.FindAllStringSubmatch(string(text), -1) {
			path, anchor := strings.TrimRight(found[2], "."), strings.TrimPrefix(found[3], "#")
			count++
			beside := filepath.Join(filepath.Dir(name), path) // as in a Go package's own testdata
			switch {
			case !exists(path) && !exists(beside) && !isBelow(path, madePaths):
				t.Errorf("%s: %s does not exist", name, path)
			case anchor != "" && !anchors(texts[path])[anchor]:
				t.Errorf("%s: %s has no heading for %s", name, path, anchor)
			}
		}
	}
	require.Greater(t, count, 80)
}

// skipped returns the error, or that a folder is left out.
func skipped(err error) error {
	if err != nil {
		return err
	}
	return fs.SkipDir
}
