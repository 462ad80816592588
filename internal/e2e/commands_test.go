package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
)

// command runs the program lethe over the API, or on the database, and returns what it
// prints and its exit status.
func (f *fleet) command(overAPI bool, args ...string) (output []byte, status int) {
	f.t.Helper()
	command := exec.CommandContext(f.t.Context(), filepath.Join(devstacktest.Binaries(f.t), "lethe"), args...)
	if overAPI {
		command.Env = []string{"LETHE_API_URL=http://" + f.api.address, "LETHE_TOKEN=" + f.token}
	} else {
		command.Env, command.Args = f.env, append(command.Args, "--database")
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		f.t.Logf("lethe %q: %s", args, stderr.String())
		return output, exit.ExitCode()
	}
	require.NoError(f.t, err)
	return output, 0
}

// document runs a command that must succeed, and returns the one document that it prints.
func (f *fleet) document(overAPI bool, args ...string) (document map[string]any) {
	f.t.Helper()
	output, status := f.command(overAPI, append(args, "--output", "json")...)
	require.Zero(f.t, status, "%q", args)
	require.NoError(f.t, json.Unmarshal(output, &document), "%s", output)
	return document
}

// The commands that scripts rely on, with the built programs, over the API and on the
// database.
func TestCommands(t *testing.T) {
	t.Parallel()
	for name, overAPI := range map[string]bool{"over the API": true, "on the database": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, devstacktest.Database(t, "e2e-10", populate(10)), server, token)
			const first, second = "!first:" + server, "!second:" + server
			for i, room := range []string{first, second} {
				_, err := roomgen.Generate(t.Context(), f.sql, roomgen.Room{ID: room, Server: server, Events: 200, Seed: uint64(i)})
				require.NoError(t, err)
			}
			end := query[string](f, `
				SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier ORDER BY topological_ordering DESC LIMIT 1 OFFSET 40`, first)
			planned := f.document(overAPI, "plan", "purge", first, "--event", end, "--delete-local", "--exact")
			require.Positive(t, planned["events"])

			// Without a worker a job waits, and can be cancelled all the same.
			id := f.document(overAPI, "purge", first, "--event", end, "--delete-local")["id"].(string)
			require.Equal(t, "queued", f.document(overAPI, "job", "show", id)["state"])
			_, status := f.command(overAPI, "job", "cancel", id)
			require.Zero(t, status)
			require.Equal(t, "cancelled", f.document(overAPI, "job", "show", id)["state"])

			f.start("scheduler")
			f.start("worker")
			done := f.document(overAPI, "purge", first, "--event", end, "--delete-local", "--plan", planned["digest"].(string), "--wait")
			require.NotEmpty(t, done["id"])
			job := f.document(overAPI, "job", "show", done["id"].(string))
			require.Equal(t, "complete", job["state"], "%v", job)
			require.Equal(t, planned["events"], job["events"])
			deleted := job["deleted"].(map[string]any)
			for table, figure := range planned["tables"].(map[string]any) {
				rows := figure.(map[string]any)
				require.Equal(t, true, rows["exact"], table)
				was, _ := deleted[table].(float64)
				require.Equal(t, rows["rows"], was, "%s: %v", table, job)
			}
			_, status = f.command(overAPI, "purge", first, "--event", end, "--delete-local", "--plan", planned["digest"].(string))
			require.Equal(t, 3, status, "the room has drifted")

			_, status = f.command(overAPI, "hold", "set", second, "--reason", "case 7")
			require.Zero(t, status)
			_, status = f.command(overAPI, "delete", second, "--force-purge", "--wait")
			require.Equal(t, 3, status, "the room is held")
			_, status = f.command(overAPI, "hold", "lift", second)
			require.Zero(t, status)
			require.NotEmpty(t, f.document(overAPI, "delete", second, "--force-purge", "--wait")["id"])
			require.Zero(t, query[int](f, `SELECT count(*) FROM rooms WHERE room_id = $1`, second))

			code, listed := f.ask("GET", "/_lethe/v1/jobs?room="+second, nil)
			require.Equal(t, 200, code)
			require.Len(t, listed["jobs"], 1)
			require.Nil(t, listed["next"])
			_, status = f.command(overAPI, "job", "canel", id)
			require.Equal(t, 2, status)
		})
	}
}
