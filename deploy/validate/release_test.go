package validate

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// A release is what these tests read of .goreleaser.yaml. "make release-check" checks all
// of it.
type release struct {
	Builds []struct {
		ID, Main, Binary string
		Env              []string
		Goarch           []string
		Flags, Ldflags   []string
	}
	Archives []struct{ Files []string }
	Nfpms    []struct {
		IDs       []string
		Bindir    string
		Contents  []content
		Overrides map[string]struct{ Scripts map[string]string }
	}
}

// A content is a file, link or folder of a package.
type content struct {
	Src, Dst, Type, Packager string
	FileInfo                 struct{ Mode int64 } `yaml:"file_info"`
}

// released reads .goreleaser.yaml.
func released(t *testing.T) release {
	t.Helper()
	var r release
	require.NoError(t, yaml.Unmarshal([]byte(page(t, ".goreleaser.yaml")), &r))
	require.Len(t, r.Nfpms, 1)
	return r
}

// TestReleaseIsBuiltLikeTheImage holds the programs of releases against those of the
// image.
func TestReleaseIsBuiltLikeTheImage(t *testing.T) {
	t.Parallel()
	dockerfile := page(t, "deploy/Dockerfile")
	r := released(t)
	var ids []string
	for _, build := range r.Builds {
		ids = append(ids, build.ID)
		require.Equal(t, build.ID, build.Binary)
		require.Equal(t, "./cmd/"+build.ID, build.Main)
		require.Contains(t, dockerfile, build.Main)
		require.Equal(t, []string{"CGO_ENABLED=0"}, build.Env)
		require.Equal(t, []string{"amd64", "arm64"}, build.Goarch)
		for _, flag := range build.Flags {
			require.Contains(t, dockerfile, flag)
		}
		variable := regexp.MustCompile(`-X (\S+)=`)
		var want, got []string
		for _, found := range variable.FindAllStringSubmatch(dockerfile, -1) {
			want = append(want, found[1])
		}
		for _, found := range variable.FindAllStringSubmatch(strings.Join(build.Ldflags, " "), -1) {
			got = append(got, found[1])
		}
		require.Len(t, want, 2)
		require.Equal(t, want, got, build.ID)
	}
	require.Equal(t, []string{"lethe", "asynqmon"}, ids)
	require.Equal(t, ids, r.Nfpms[0].IDs)
}

// TestReleaseHasItsFiles tests that all files of archives and packages exist, and that the
// package has what its unit starts.
func TestReleaseHasItsFiles(t *testing.T) {
	t.Parallel()
	r := released(t)
	for _, pattern := range r.Archives[0].Files {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
	}
	installed := map[string]content{}
	for _, c := range r.Nfpms[0].Contents {
		installed[c.Dst] = c
		if c.Type == "dir" || c.Type == "symlink" || strings.HasPrefix(c.Src, "bin/package/") {
			continue // the last are made by hooks
		}
		found, err := filepath.Glob(filepath.Join(root, c.Src))
		require.NoError(t, err)
		require.NotEmpty(t, found, c.Src)
	}
	unit := page(t, "deploy/package/lethe@.service")
	folder := regexp.MustCompile(`(?m)^ExecStart=(.*)/%i$`).FindStringSubmatch(unit)
	require.NotNil(t, folder)
	require.Equal(t, r.Nfpms[0].Bindir, folder[1])
	for _, name := range []string{"api", "worker", "scheduler"} {
		require.Equal(t, content{Src: "lethe", Dst: folder[1] + "/" + name, Type: "symlink"}, installed[folder[1]+"/"+name])
		require.Contains(t, page(t, "deploy/systemd/lethe.target"), "lethe@"+name+".service")
	}
	settings := regexp.MustCompile(`(?m)^EnvironmentFile=(.*)$`).FindStringSubmatch(unit)
	require.NotNil(t, settings)
	require.Equal(t, "config|noreplace", installed[settings[1]].Type)
	require.Equal(t, int64(0o640), installed[settings[1]].FileInfo.Mode, "it holds passwords")
	require.Equal(t, int64(0o750), installed[filepath.Dir(settings[1])].FileInfo.Mode)
}

// TestPackagedUnit tests that the package's unit is that of deploy/systemd, but for its
// folder and its user.
func TestPackagedUnit(t *testing.T) {
	t.Parallel()
	directives := func(path string) (lines []string) {
		for line := range strings.Lines(page(t, path)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	var want []string
	for _, line := range directives("deploy/systemd/lethe@.service") {
		switch line {
		case "ExecStart=/usr/local/lib/lethe/%i":
			want = append(want, "ExecStart=/usr/lib/lethe/%i")
		case "DynamicUser=yes":
			// It implies the first two, which a unit with a user must name.
			want = append(want, "RemoveIPC=yes", "RestrictSUIDSGID=yes", "User=lethe", "Group=lethe")
		default:
			want = append(want, line)
		}
	}
	require.Equal(t, want, directives("deploy/package/lethe@.service"))
}

// TestPackagedSettings tests that the settings that the package suggests exist, and that
// none of them is set.
func TestPackagedSettings(t *testing.T) {
	t.Parallel()
	text := page(t, "deploy/package/lethe.env")
	environment := map[string]string{}
	for line := range strings.Lines(text) {
		require.True(t, line == "\n" || strings.HasPrefix(line, "#"), line)
		if name, value, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "#"), "="); found && strings.HasPrefix(name, "LETHE_") && name != "LETHE_CONFIG" {
			environment[name] = strings.Trim(value, "'")
		}
	}
	require.Len(t, environment, 6)
	settings, err := load(t, "/worker", environment, nil)
	require.NoError(t, err)
	require.Equal(t, "example.org", settings.ServerName)
}

// TestPackageScriptsParse tests that a shell can read the scripts of the packages, which
// only "make package-test" runs.
func TestPackageScriptsParse(t *testing.T) {
	t.Parallel()
	for packager, override := range released(t).Nfpms[0].Overrides {
		require.NotEmpty(t, override.Scripts, packager)
		for _, path := range override.Scripts {
			said, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join(root, path)).CombinedOutput()
			require.NoError(t, err, "%s: %s", path, said)
			require.Contains(t, page(t, path), "\nset -e\n", path)
		}
	}
}

// TestWorkflows tests what actionlint does not: that a workflow calls only targets and
// scripts that exist, and names no registry.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(root, ".github/workflows/*.yml"))
	require.NoError(t, err)
	require.Len(t, paths, 2)
	makefile := page(t, "Makefile")
	var registries []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, found := range regexp.MustCompile(`(?m)(?:run: |sudo )make ([a-z -]+)`).FindAllStringSubmatch(string(text), -1) {
			for target := range strings.FieldsSeq(found[1]) {
				require.Contains(t, makefile, "\n"+target+": ## ", path)
			}
		}
		for _, found := range regexp.MustCompile(`\b(?:scripts/[a-z-]+|\.ci/run)`).FindAllString(string(text), -1) {
			require.FileExists(t, filepath.Join(root, found))
		}
		for _, found := range regexp.MustCompile(`(?m)^ +container: (\S+)$`).FindAllStringSubmatch(string(text), -1) {
			requireShortImage(t, found[1])
		}
		for _, found := range regexp.MustCompile(`(?m)uses: (\S+)`).FindAllStringSubmatch(string(text), -1) {
			require.Regexp(t, `^[a-z-]+/[a-z-]+@(v\d+|[0-9a-f]{40})$`, found[1])
		}
		for _, found := range regexp.MustCompile(`(?m)^ +registry: (.+)$`).FindAllStringSubmatch(string(text), -1) {
			registries = append(registries, found[1])
		}
	}
	require.Equal(t, []string{"${{ vars.REGISTRY }}"}, slices.Compact(registries))
}
