package validate

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// instructions returns a Dockerfile's instructions, one line each, without comments.
func instructions(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var lines []string
	var open bool // whether the last line continues in this one
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text := strings.TrimSpace(strings.TrimSuffix(line, `\`))
		if open {
			lines[len(lines)-1] += " " + text
		} else {
			lines = append(lines, text)
		}
		open = strings.HasSuffix(line, `\`)
	}
	require.False(t, open, "the last line ends with a backslash")
	return lines
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	lines := instructions(t, filepath.Join(root, "deploy/Dockerfile"))
	var stages [][]string
	for _, line := range lines {
		word, _, _ := strings.Cut(line, " ")
		require.Contains(t, []string{"ARG", "CMD", "COPY", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "WORKDIR"}, word)
		if word == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) > 0 {
			stages[len(stages)-1] = append(stages[len(stages)-1], line)
		}
	}
	require.Len(t, stages, 2)

	building, image := strings.Join(stages[0], "\n"), stages[1]
	require.Regexp(t, `^FROM --platform=\$BUILDPLATFORM golang:\$\{GO_VERSION\}-\S+ AS build\n`, building)
	for _, want := range []string{"ARG TARGETOS", "ARG TARGETARCH", "CGO_ENABLED=0", "GOARCH=$TARGETARCH", "-trimpath", "go mod verify"} {
		require.Contains(t, building, want)
	}
	// One binary acts by its name, and every binary knows its version.
	require.Contains(t, building, "-o /out/ ./cmd/lethe ./cmd/asynqmon ")
	for _, name := range []string{"api", "worker", "scheduler"} {
		require.Contains(t, building, "ln -s lethe /out/"+name)
	}
	for name, variable := range map[string]string{"VERSION": "version", "REVISION": "revision"} {
		require.Contains(t, building, "-X lethe/internal/version."+variable+"=$"+name)
		require.Regexp(t, `(?m)^ARG `+name+`=`, building)
	}
	// The compiler must support the version in go.mod.
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	require.NotNil(t, version)
	require.Contains(t, lines, "ARG GO_VERSION="+string(version[1]))

	require.Equal(t, "FROM scratch", image[0])
	require.Contains(t, image, "USER 65532:65532")
	require.Contains(t, image, `CMD ["/lethe"]`)
	for _, line := range image {
		require.False(t, strings.HasPrefix(line, "RUN "), "scratch has no programs to run: %s", line)
		if strings.HasPrefix(line, "COPY ") {
			require.True(t, strings.HasPrefix(line, "COPY --from=build "), line)
		}
	}
}

func TestDockerignoreIncludesOnlySources(t *testing.T) {
	t.Parallel()
	lines := instructions(t, filepath.Join(root, ".dockerignore"))
	require.Equal(t, "*", lines[0])
	var through []string
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, "!"); ok {
			through = append(through, name)
		}
	}
	require.Equal(t, []string{"go.mod", "go.sum", "cmd", "internal"}, through)
	for _, line := range instructions(t, filepath.Join(root, "deploy/Dockerfile")) {
		words := strings.Fields(line)
		if words[0] != "COPY" || strings.HasPrefix(words[1], "--from") {
			continue
		}
		for _, source := range words[1 : len(words)-1] {
			require.Contains(t, through, source)
		}
	}
}
