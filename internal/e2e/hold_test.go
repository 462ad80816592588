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
