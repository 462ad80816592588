package validate

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
)

// root is the top of the repository.
const root = "../.."

// bookkeeping is how long a worker takes at most to give its jobs back after a drain.
const bookkeeping = 10 * time.Second

// apiDrain is how long requests may continue after a process is told to stop.
const apiDrain = 10 * time.Second

// purposes is the purpose of each program's settings.
var purposes = map[string]config.Purpose{
	"/api":       config.ForAPI,
	"/asynqmon":  config.ForAsynqmon,
	"/lethe":     config.ForDatabase,
	"/scheduler": config.ForScheduler,
	"/worker":    config.ForWorker,
}

// load loads the settings of a container from its environment and from the files that
// the environment names, by their paths in the container.
func load(t *testing.T, program string, environment, files map[string]string) (config.Config, error) {
	t.Helper()
	purpose, ok := purposes[program]
	require.True(t, ok, "the image has no program %s", program)
	require.FileExists(t, filepath.Join(root, "cmd", program, "main.go"))
	return config.Load(inTest(t, environment, files), purpose)
}

// inTest returns the environment with the files in a temporary folder.
func inTest(t *testing.T, environment, files map[string]string) []string {
	t.Helper()
	folder := t.TempDir()
	var environ []string
	for name, value := range environment {
		if strings.HasPrefix(name, "LETHE_") && strings.HasPrefix(value, "/") {
			require.Contains(t, files, value, "%s names a file that is not mounted", name)
			path := filepath.Join(folder, name)
			require.NoError(t, os.WriteFile(path, []byte(files[value]), 0o600))
			value = path
		}
		environ = append(environ, name+"="+value)
	}
	return environ
}

// The programs, built once for all tests that run one.
var build struct {
	sync.Once
	folder string
	err    error
	said   []byte
}

func TestMain(m *testing.M) {
	status := m.Run()
	if build.folder != "" {
		_ = os.RemoveAll(build.folder)
	}
	os.Exit(status)
}

// run runs a program of the image, and returns its exit status and its output.
func run(t *testing.T, environ []string, program string, args ...string) (int, string) {
	t.Helper()
	build.Do(func() {
		if build.folder, build.err = os.MkdirTemp("", "lethe-validate-"); build.err == nil {
			compile := exec.Command("go", "-C", root, "build", "-o", build.folder, "./cmd/lethe", "./cmd/scheduler")
			build.said, build.err = compile.CombinedOutput()
		}
	})
	require.NoError(t, build.err, "%s", build.said)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(build.folder, program), args...)
	command.Env = environ
	said, err := command.CombinedOutput()
	if command.ProcessState == nil {
		require.NoError(t, err)
	}
	return command.ProcessState.ExitCode(), string(said)
}
