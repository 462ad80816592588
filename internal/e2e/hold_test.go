package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/migrate"
)

// The operator's verbs for holds.
func TestHoldCommand(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(devstacktest.Binaries(t), "lethe")
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	hold := func(args ...string) (string, error) {
		command := exec.CommandContext(t.Context(), binary, append([]string{"hold"}, args...)...)
		command.Env = []string{"LETHE_DATABASE_URL=" + url}
		output, err := command.CombinedOutput()
		return string(output), err
	}
	const room = "!abc:example.org"
	said, err := hold("place", "-room", room, "-reason", "case\n\x1b[31m 7", "-by", "counsel")
	require.NoError(t, err, said)
	require.Contains(t, said, room)
	require.Contains(t, said, `case\n\x1b[31m 7`, "no control characters")
	said, err = hold("place", "-room", room, "-reason", "another", "-by", "counsel")
	require.Error(t, err)
	require.Contains(t, said, "held for another reason: case")
	said, err = hold("list")
	require.NoError(t, err, said)
	require.Contains(t, said, room)
	said, err = hold("release", "-room", room, "-by", "judge")
	require.NoError(t, err, said)
	said, err = hold("list")
	require.NoError(t, err, said)
	require.NotContains(t, said, room)
	said, err = hold("list", "-all")
	require.NoError(t, err, said)
	require.Regexp(t, room+` .* counsel .* judge .*case`, said)

	for _, args := range [][]string{
		{},
		{"soup"},
		{"place", "-reason", "r", "-by", "b"},
		{"place", "-room", "abc", "-reason", "r", "-by", "b"},
		{"place", "-room", room, "-by", "b"},
		{"release", "-room", room, "-by", "b"},
		{"list", room},
	} {
		said, err := hold(args...)
		require.Error(t, err, "%v: %s", args, said)
	}
}

// The schema goes back and away only with a copy of the holds.
func TestHoldsOutliveLethe(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	file := filepath.Join(t.TempDir(), "holds.json")
	lethe := func(want int, args ...string) string {
		t.Helper()
		status, said := operate(t, []string{"LETHE_DATABASE_URL=" + url}, args...)
		require.Equal(t, want, status, "%s: %s", args, said)
		return said
	}
	const room, reason = "!abc:example.org", "case\x1b[31m 7"
	lethe(0, "hold", "set", room, "--reason", reason, "--by", "counsel")
	require.Contains(t, lethe(0, "hold", "list", "--output", "yaml"), `case\e[31m 7`)
	for _, args := range [][]string{{"uninstall", "--yes"}, {"uninstall"}, {"migrate", "--down", "10"}} {
		require.Contains(t, lethe(3, args...), room)
	}
	lethe(0, "hold", "export", file)
	require.Contains(t, lethe(3, "uninstall", "--holds", file), "--yes")
	lethe(0, "migrate", "--down", "10", "--holds", file)
	lethe(0, "migrate")
	require.Contains(t, lethe(0, "hold", "list"), room, "the hold was lost on the way")

	lethe(0, "uninstall", "--holds", file, "--yes")
	lethe(0, "uninstall", "--yes")
	lethe(0, "migrate")
	require.NotContains(t, lethe(0, "hold", "list"), room)
	lethe(0, "hold", "import", file)
	require.Contains(t, lethe(0, "hold", "list"), `case\x1b[31m 7`)
	require.Contains(t, lethe(0, "hold", "lift", room), room)
	lethe(1, "hold", "lift", room)
	lethe(2, "hold", "lfit", room)
}
