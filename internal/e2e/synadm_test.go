package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
)

// synadm returns a function that runs the admin tool of Debian's package against
// the fleet's api, and returns the JSON that it prints. Where the tool is not
// there the test is skipped.
func synadm(t *testing.T, f *fleet) func(args ...string) map[string]any {
	t.Helper()
	all := synadmAll(t, f)
	return func(args ...string) map[string]any {
		t.Helper()
		answers := all(args...)
		require.Len(t, answers, 1)
		return answers[0]
	}
}

// synadmAll is synadm for a command that prints more than one answer.
func synadmAll(t *testing.T, f *fleet) func(args ...string) []map[string]any {
	t.Helper()
	synadm, err := exec.LookPath("synadm")
	if err != nil {
		t.Skip("synadm is not there: Debian's package of that name has it")
	}
	home := t.TempDir()
	settings := filepath.Join(home, "synadm.yaml")
	require.NoError(t, os.WriteFile(settings, fmt.Appendf(nil,
		"{user: admin, token: %s, base_url: 'http://%s', admin_path: /_synapse/admin, matrix_path: /_matrix, format: json, timeout: 30}",
		f.token, f.api.address), 0o600))
	return func(args ...string) []map[string]any {
		t.Helper()
		command := exec.CommandContext(t.Context(), synadm, append([]string{"--batch", "-c", settings, "-o", "json"}, args...)...)
		command.Env = append(os.Environ(), "HOME="+home, "LC_ALL=C.UTF-8")
		output, err := command.Output()
		require.NoError(t, err, "%s", output)
		var answers []map[string]any
		for decoder := json.NewDecoder(bytes.NewReader(output)); decoder.More(); {
			var answer map[string]any
			require.NoError(t, decoder.Decode(&answer), "%s", output)
			answers = append(answers, answer)
		}
		return answers
	}
}

// TestSynadm lets synadm purge a room.
func TestSynadm(t *testing.T) {
	t.Parallel()
	f, purge := demo(t, 200)
	run := synadm(t, f)
	f.start("worker")
	require.Contains(t, run("version"), "server_version")
	id, ok := run("history", "purge", large, "--before-event-id", purge["purge_up_to_event_id"].(string), "--delete-local")["purge_id"].(string)
	require.True(t, ok)
	f.eventually(30*time.Second, func() bool { return run("history", "purge-status", id)["status"] == "complete" }, "purge %s has not ended", id)
	require.Zero(t, f.left())
}

// TestSynadmReadsRooms lets it look at a room in every way that it has.
func TestSynadmReadsRooms(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	run := synadm(t, f)

	list := run("room", "list", "--sort", "joined_members", "--reverse", "--limit", "5")
	require.Equal(t, 1.0, list["total_rooms"])
	require.NotContains(t, list, "next_batch")
	require.Len(t, list["rooms"], 1)
	room := list["rooms"].([]any)[0].(map[string]any)
	require.Equal(t, large, room["room_id"])
	require.Equal(t, list, run("room", "search", room["name"].(string)[1:]))
	require.Equal(t, list, run("room", "search", large))
	require.Empty(t, run("room", "search", "%")["rooms"])
	require.Equal(t, 1.0, run("room", "list", "--limit", "0")["total_rooms"])

	details := run("room", "details", large)
	for key, value := range room {
		require.Equal(t, value, details[key], key)
	}
	require.Equal(t, false, details["forgotten"])
	require.Contains(t, details, "topic")

	members := run("room", "members", large)
	require.Equal(t, room["joined_members"], members["total"])
	require.Len(t, members["members"], int(members["total"].(float64)))

	state := run("room", "state", large)["state"].([]any)
	require.Len(t, state, int(room["state_events"].(float64)))
	powers := run("room", "power-levels")["rooms"].([]any)[0].(map[string]any)
	require.Equal(t, large, powers["room_id"])
	require.Equal(t, 100.0, powers["power_levels"].(map[string]any)[room["creator"].(string)])
	require.NotContains(t, powers, "history_visibility", "which it takes away, so it was there")
	require.Equal(t, powers, run("room", "power-levels", "--room-id", large)["rooms"].([]any)[0])
}

// TestSynadmReadsRoomsOfSynapse lets it look at rooms that Synapse made, of
// which some have ids without a server.
func TestSynadmReadsRoomsOfSynapse(t *testing.T) {
	t.Parallel()
	f, _ := corpus(t, "purge_history")
	run := synadm(t, f)
	rooms := run("room", "power-levels", "--all-details")["rooms"].([]any)
	require.Len(t, rooms, 10)
	newest := map[string]any{}
	for _, room := range rooms {
		if !strings.Contains(room.(map[string]any)["room_id"].(string), ":") {
			newest = room.(map[string]any)
		}
	}
	require.Equal(t, "12", newest["version"])
	id := newest["room_id"].(string)
	require.Equal(t, newest["creator"], run("room", "details", id)["creator"])
	require.Equal(t, newest["joined_members"], run("room", "members", id)["total"])
	require.Len(t, run("room", "state", id)["state"], int(newest["state_events"].(float64)))
	require.Equal(t, 6.0, run("room", "list", "--limit", "6")["next_batch"])
}

// TestSynadmDeletesRooms lets it delete rooms, which it waits for.
func TestSynadmDeletesRooms(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	all := synadmAll(t, f)
	f.start("worker")
	for i, flags := range [][]string{
		{}, {"--no-purge"}, {"--block", "-u", admin, "-n", "Gone", "-m", "It is gone."},
	} {
		// Only members of this server: there is no key to sign events with.
		room := fmt.Sprintf("!room%d:%s", i, server)
		_, err := roomgen.Generate(t.Context(), f.sql, roomgen.Room{ID: room, Server: server, Seed: uint64(i), RemoteMembers: -1})
		require.NoError(t, err)
		answers := all(append([]string{"room", "delete", room}, flags...)...)
		require.Len(t, answers, 3, "the details, the members, and what was done")
		require.Equal(t, room, answers[0]["room_id"])
		require.EqualValues(t, 4, answers[1]["total"])
		require.ElementsMatch(t, answers[1]["members"], answers[2]["kicked_users"])
		require.Equal(t, []any{}, answers[2]["failed_to_kick_users"])
		newRoom, replaced := answers[2]["new_room_id"].(string)
		require.Equal(t, i == 2, replaced)
		left := query[int](f, `SELECT count(*) FROM events WHERE room_id = $1`, room)
		require.Equal(t, i == 1, left > 0)
		require.Equal(t, i == 2, query[bool](f, `SELECT EXISTS (SELECT FROM blocked_rooms WHERE room_id = $1)`, room))
		if replaced {
			require.Equal(t, "Gone", all("room", "details", newRoom)[0]["name"])
		}
	}
	// A room with members elsewhere is refused, and the refusal shown.
	answers := all("room", "delete", large)
	require.Len(t, answers, 3)
	require.Equal(t, "M_UNKNOWN", answers[2]["errcode"])
	require.Contains(t, answers[2]["error"], "LETHE_SIGNING_KEY_FILE")
	// An unknown one is not.
	answers = all("room", "delete", "!nobody:"+server)
	require.Equal(t, "M_NOT_FOUND", answers[0]["errcode"])
	require.Equal(t, []any{}, answers[len(answers)-1]["kicked_users"])
}
