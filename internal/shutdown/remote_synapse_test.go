package shutdown_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/homeserver"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/storetest"
)

// TestRemoteOnSynapse shuts two rooms down on a real Synapse, as Synapse did
// itself when the fixtures were made. Synapse serves LETHE_TEST_SYNAPSE_URL on
// the database LETHE_TEST_SYNAPSE_DATABASE_URL, a copy of the fixtures that can be
// used up, and knows an application service with the as_token "astoken" for all
// of its users and aliases.
func TestRemoteOnSynapse(t *testing.T) {
	t.Parallel()
	address, database := os.Getenv("LETHE_TEST_SYNAPSE_URL"), os.Getenv("LETHE_TEST_SYNAPSE_DATABASE_URL")
	if address == "" || database == "" {
		t.Skip("LETHE_TEST_SYNAPSE_URL and LETHE_TEST_SYNAPSE_DATABASE_URL name no Synapse")
	}
	file, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "operations.json"))
	require.NoError(t, err)
	var operations []struct {
		Name  string `json:"room"`
		ID    string `json:"room_id"`
		Final struct {
			Shutdown struct {
				Kicked  []string `json:"kicked_users"`
				Aliases []string `json:"local_aliases"`
			} `json:"shutdown_room"`
		} `json:"final"`
	}
	require.NoError(t, json.Unmarshal(file, &operations))

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, migrate.Up(ctx, database))
	db, err := postgres.Open(ctx, database, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(ctx, database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	client, err := homeserver.New(address, homeserver.Options{})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	service := client.Service("astoken")
	remote := drive(db, shutdown.NewRemote(db, shutdown.RemoteOptions{Homeserver: service}))
	query := func(sql string, args ...any) []string {
		t.Helper()
		rows, err := conn.Query(ctx, sql, args...)
		require.NoError(t, err)
		values, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return values
	}

	for _, op := range operations {
		if op.Name != "secrets" && op.Name != "lobby" {
			continue
		}
		batch := begin(t, ctx, db, op.ID)
		lost := batch // a worker that does its step, and has lost the room when it is done
		lost.Fence--
		step := func(name string, do func(storetest.Work) error) stepOutcome {
			t.Helper()
			started := time.Now()
			require.ErrorIs(t, do(lost), journal.ErrFenced, name)
			t.Logf("%s: %s the first time: %s", op.Name, name, time.Since(started))
			started = time.Now()
			require.NoError(t, do(batch), name)
			job, err := journal.New(db).Job(ctx, batch.Run.JobID)
			require.NoError(t, err)
			t.Logf("%s: %s again: %s: %s", op.Name, name, time.Since(started), job.Checkpoint)
			var outcome stepOutcome
			require.NoError(t, json.Unmarshal(job.Checkpoint, &outcome))
			return outcome
		}
		members, err := roomwriter.LocalMembers(ctx, db, op.ID, "", 1000)
		require.NoError(t, err)
		removal := shutdown.Removal{Members: members, Requester: "@admin:lab.test"}
		room := shutdown.NewRoom{JobID: batch.Run.JobID, Creator: "@alice:lab.test", Name: "Moved"}

		if op.Name == "secrets" {
			step("block", func(b storetest.Work) error { return remote.Block(ctx, b, "@admin:lab.test") })
			require.Equal(t, []string{"@admin:lab.test"}, query(`SELECT user_id FROM blocked_rooms WHERE room_id = $1`, op.ID))
			require.ErrorContains(t, service.Join(ctx, "@admin:lab.test", op.ID), "403")
		} else {
			removal.NewRoom = step("create", func(b storetest.Work) error { return errOf(remote.CreateRoom(ctx, b, room)) }).NewRoom
			require.Len(t, query(`SELECT room_id FROM event_json WHERE json LIKE '%' || $1 || '%'`, batch.Run.JobID), 1)
		}
		outcome := step("users", func(b storetest.Work) error { return errOf(remote.RemoveUsers(ctx, b, removal)) })
		require.Empty(t, outcome.Failed)
		require.ElementsMatch(t, op.Final.Shutdown.Kicked, outcome.Removed)
		members, err = roomwriter.LocalMembers(ctx, db, op.ID, "", 1000)
		require.NoError(t, err)
		require.Empty(t, members)
		require.Len(t, query(`
			SELECT DISTINCT user_id FROM room_memberships WHERE room_id = $1 AND forgotten = 1`, op.ID), len(outcome.Removed))
		if op.Name == "secrets" {
			continue
		}

		members, err = roomwriter.LocalMembers(ctx, db, removal.NewRoom, "", 1000)
		require.NoError(t, err)
		require.Len(t, members, len(op.Final.Shutdown.Kicked))
		step("message", func(b storetest.Work) error {
			return remote.SendMessage(ctx, b, shutdown.Message{
				JobID: batch.Run.JobID, NewRoom: removal.NewRoom, Sender: room.Creator, Body: "This room was closed.",
			})
		})
		require.Equal(t, []string{"This room was closed."}, query(`
			SELECT j.json::jsonb #>> '{content,body}' FROM events e JOIN event_json j USING (event_id)
			WHERE e.room_id = $1 AND e.type = 'm.room.message'`, removal.NewRoom))

		move := shutdown.AliasMove{NewRoom: removal.NewRoom, Owner: room.Creator, Requester: "@admin:lab.test"}
		move.Known, err = roomwriter.LocalAliases(ctx, db, op.ID)
		require.NoError(t, err)
		require.NoError(t, service.DeleteAlias(ctx, move.Known[0])) // the worker is gone in between
		outcome = step("aliases", func(b storetest.Work) error { return errOf(remote.MoveAliases(ctx, b, move)) })
		require.ElementsMatch(t, op.Final.Shutdown.Aliases, outcome.Aliases)
		aliases, err := roomwriter.LocalAliases(ctx, db, removal.NewRoom)
		require.NoError(t, err)
		slices.Sort(op.Final.Shutdown.Aliases)
		require.Equal(t, op.Final.Shutdown.Aliases, aliases)
	}
}
