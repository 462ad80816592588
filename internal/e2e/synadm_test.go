package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSynadm lets the admin tool of Debian's package purge a room.
func TestSynadm(t *testing.T) {
	t.Parallel()
	synadm, err := exec.LookPath("synadm")
	if err != nil {
		t.Skip("synadm is not there: Debian's package of that name has it")
	}
	f, purge := demo(t, 200)
	f.start("worker")
	home := t.TempDir()
	settings := filepath.Join(home, "synadm.yaml")
	require.NoError(t, os.WriteFile(settings, fmt.Appendf(nil,
		"{user: admin, token: %s, base_url: 'http://%s', admin_path: /_synapse/admin, matrix_path: /_matrix, format: json, timeout: 30}",
		token, f.api.address), 0o600))
	run := func(args ...string) map[string]any {
		t.Helper()
		command := exec.CommandContext(t.Context(), synadm, append([]string{"--batch", "-c", settings, "-o", "json"}, args...)...)
		command.Env = append(os.Environ(), "HOME="+home, "LC_ALL=C.UTF-8")
		output, err := command.Output()
		require.NoError(t, err, "%s", output)
		var answer map[string]any
		require.NoError(t, json.Unmarshal(output, &answer), "%s", output)
		return answer
	}
	require.Contains(t, run("version"), "server_version")
	id, ok := run("history", "purge", large, "--before-event-id", purge["purge_up_to_event_id"].(string), "--delete-local")["purge_id"].(string)
	require.True(t, ok)
	f.eventually(30*time.Second, func() bool { return run("history", "purge-status", id)["status"] == "complete" }, "purge %s has not ended", id)
	require.Zero(t, f.left())
}
