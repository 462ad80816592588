package shutdown_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/matrix/matrixtest"
	"lethe/internal/roomgen"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/storetest"
)

// generate makes a room of four local members, and no others if remote is
// negative.
func (h *house) generate(seed uint64, remote int) string {
	h.t.Helper()
	summary, err := roomgen.Generate(h.ctx, h.conn, roomgen.Room{
		Server: h.server, Seed: seed, Events: 40, StateEvery: 5, RemoteMembers: remote,
	})
	require.NoError(h.t, err)
	return summary.Room
}

// removing tries to remove all of a room's members.
func (h *house) removing(batch storetest.Work, newRoom string) error {
	return errOf(h.home.RemoveUsers(h.ctx, batch, shutdown.Removal{Members: h.members(batch.Room), NewRoom: newRoom}))
}

func ids(members []roomwriter.LocalMember) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.UserID)
	}
	return ids
}

func TestRemovedUsersHaveLeftAndForgotten(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	before, members := h.newest(), h.members(room)
	require.Len(t, members, 4)
	batch := h.begin(room)
	outcome := h.remove(batch, "", members...)
	require.Equal(t, stepOutcome{Removed: ids(members)}, outcome)
	h.whole(before)
	require.Empty(t, h.members(room))
	require.Equal(t, []int{1}, all[int](h, `SELECT DISTINCT forgotten FROM room_memberships WHERE room_id = $1`, room))
	require.Equal(t, []string{"leave 1"}, all[string](h, `
		SELECT DISTINCT membership || ' ' || forgotten FROM sliding_sync_membership_snapshots WHERE room_id = $1`, room))
	require.Empty(t, h.currentState(room), "no user of this server learns of changes")
	job, err := journal.New(h.store).Job(h.ctx, batch.Run.JobID)
	require.NoError(t, err)
	require.Contains(t, string(job.Checkpoint), members[0].UserID, "the checkpoint is the outcome's")

	// Who is out stays out, and counts as removed.
	newest := h.newest()
	require.Equal(t, outcome, h.remove(batch, "", members...))
	require.Equal(t, newest, h.newest())
	require.Equal(t, stepOutcome{Removed: []string{"@stranger:x"}}, h.remove(batch, "", roomwriter.LocalMember{UserID: "@stranger:x"}))
	require.Equal(t, newest, h.newest())
}

// stays fails the test unless no member of the room can be removed, for the reason.
// obstacle is what the room's inspection has to say.
func (h *house) stays(batch storetest.Work, reason error) (obstacle shutdown.Obstacle) {
	h.t.Helper()
	obstacle, err := h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: batch.Room})
	require.NoError(h.t, err)
	require.ErrorIs(h.t, obstacle.Reason, reason)
	newest, members := h.newest(), h.members(batch.Room)
	require.NotEmpty(h.t, members)
	require.Equal(h.t, stepOutcome{Failed: ids(members)}, h.remove(batch, "", members...))
	require.Equal(h.t, members, h.members(batch.Room))
	require.Equal(h.t, newest, h.newest(), "nothing is written")
	return obstacle
}

func TestUnsignedEventsStayOnThisServer(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, 2)
	batch := h.begin(room)
	obstacle := h.stays(batch, shutdown.ErrUnsigned)
	require.ErrorContains(t, obstacle.Reason, "LETHE_SIGNING_KEY_FILE")
	require.Equal(t, []string{"far.example"}, obstacle.RemoteServers)
	h.unchanged(func() {
		require.ErrorIs(t, h.home.SendMessage(h.ctx, batch, shutdown.Message{NewRoom: room, Sender: h.members(room)[0].UserID}),
			shutdown.ErrUnsigned)
	})

	// Nor do they when only the last state that we knew tells of others.
	h.exec(`DELETE FROM current_state_events WHERE room_id = $1`, room)
	require.Equal(t, obstacle.RemoteServers, h.stays(batch, shutdown.ErrUnsigned).RemoteServers)

	// Without a user to remove no key is needed.
	h.exec(`UPDATE local_current_membership SET membership = 'leave' WHERE room_id = $1`, room)
	require.NoError(t, h.removing(batch, ""))
}

func TestUnsupportedRoomVersions(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	batch := h.begin(room)
	for _, version := range []any{"", "13", "org.example.experiment", nil} {
		h.exec(`UPDATE rooms SET room_version = $2 WHERE room_id = $1`, room, version)
		obstacle := h.stays(batch, shutdown.ErrRoomVersion)
		require.ErrorContains(t, obstacle.Reason, "unsupported room version (need 1 to 12)")
		require.Empty(t, obstacle.RemoteServers)
	}
	h.exec(`UPDATE local_current_membership SET membership = 'leave' WHERE room_id = $1`, room)
	require.NoError(t, h.removing(batch, ""), "without a user to remove no event is made")
}

// An invitation or a knock ends without an event where none can be made.
func TestMembershipsEndWithoutAnEvent(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	for _, membership := range []string{"invite", "knock"} {
		room := h.generate(uint64(len(membership)), -1)
		user := h.members(room)[1]
		user.Membership = membership
		h.exec(`UPDATE rooms SET room_version = NULL WHERE room_id = $1`, room)
		h.exec(`UPDATE local_current_membership SET membership = $3 WHERE room_id = $1 AND user_id = $2`, room, user.UserID, membership)
		h.exec(`INSERT INTO sliding_sync_membership_snapshots
			(room_id, user_id, sender, membership_event_id, membership, event_stream_ordering, event_instance_name)
			SELECT $1, $2, $2, event_id, $3, event_stream_ordering, 'master' FROM local_current_membership WHERE room_id = $1 AND user_id = $2
			ON CONFLICT (room_id, user_id) DO UPDATE SET membership = $3`, room, user.UserID, membership)
		newest, batch := h.newest(), h.begin(room)
		require.Equal(t, stepOutcome{Removed: []string{user.UserID}}, h.remove(batch, "", user))
		require.Equal(t, newest, h.newest())
		for _, table := range []string{"local_current_membership", "sliding_sync_membership_snapshots"} {
			require.Zero(t, one[int](h, `SELECT count(*) FROM `+table+` WHERE room_id = $1 AND user_id = $2`, room, user.UserID), table)
		}
		require.Equal(t, []int{1}, all[int](h, `SELECT DISTINCT forgotten FROM room_memberships WHERE room_id = $1 AND user_id = $2`, room, user.UserID))
		require.Len(t, h.members(room), 3, "the others are joined")
		require.Equal(t, stepOutcome{Removed: []string{user.UserID}}, h.remove(batch, "", user))
	}
}

func TestStepOfASupersededRunChangesNothing(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	h.exec(`INSERT INTO room_aliases VALUES ('#a:x', $1, '@alice:x')`, room)
	creator := h.members(room)[0].UserID
	steps := map[string]func(storetest.Work) error{
		"block": func(b storetest.Work) error { return h.home.Block(h.ctx, b, "@admin:x") },
		"create": func(b storetest.Work) error {
			return errOf(h.home.CreateRoom(h.ctx, b, shutdown.NewRoom{Creator: creator}))
		},
		"remove": func(b storetest.Work) error { return h.removing(b, "") },
		"message": func(b storetest.Work) error {
			return h.home.SendMessage(h.ctx, b, shutdown.Message{NewRoom: room, Sender: creator})
		},
		"aliases": func(b storetest.Work) error {
			return errOf(h.home.MoveAliases(h.ctx, b, shutdown.AliasMove{NewRoom: "!n:x"}))
		},
	}
	batch := h.begin(room)
	fenced := batch
	fenced.Fence--
	superseded := batch
	superseded.Run.Attempt--
	for name, step := range steps {
		h.unchanged(func() { require.ErrorIs(t, step(fenced), journal.ErrFenced, name) })
		h.unchanged(func() { require.ErrorIs(t, step(superseded), journal.ErrSuperseded, name) })
	}
	for name, step := range steps {
		if name != "remove" && name != "message" {
			require.NoError(t, step(batch), name)
		}
	}
	require.NoError(t, steps["message"](batch))
	require.NoError(t, steps["remove"](batch))
}

// hinder makes the user's membership events fail with an error of the given
// class, raised by a trigger.
func (h *house) hinder(user, code string) {
	h.t.Helper()
	h.exec(fmt.Sprintf(`
		CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.user_id = '%s' THEN RAISE EXCEPTION 'not with %s' USING ERRCODE = '%s'; END IF;
			RETURN NEW;
		END $$`, user, user, code))
	h.exec(`CREATE TRIGGER hinder BEFORE INSERT ON room_memberships FOR EACH ROW EXECUTE FUNCTION hinder()`)
}

func TestUserWhoCannotBeRemovedKeepsNoOtherUser(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"P0001", "23503", "22P02"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			h := embeddedHouse(t, shutdown.EmbeddedOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
			room := h.generate(1, -1)
			before, members := h.newest(), ids(h.members(room))
			h.hinder(members[1], code)
			outcome := h.remove(h.begin(room), "", h.members(room)...)
			require.Equal(t, stepOutcome{
				Removed: []string{members[0], members[2], members[3]}, Failed: []string{members[1]},
			}, outcome)
			h.whole(before)
			require.Len(t, h.eventsAfter(before), 3, "nothing is left of the attempt")
			require.Equal(t, []string{members[1]}, ids(h.members(room)))
			require.NotEmpty(t, h.currentState(room), "a user is still joined")
			require.Contains(t, log.String(), "not with "+members[1])
		})
	}
}

func TestFailureOfTheServerFailsTheStep(t *testing.T) {
	t.Parallel()
	for code, transient := range map[string]bool{"40001": true, "40P01": true, "55P03": true, "53200": true, "57014": true, "42501": false} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			h := embeddedHouse(t, shutdown.EmbeddedOptions{})
			room := h.generate(1, -1)
			h.hinder(h.members(room)[2].UserID, code)
			batch := h.begin(room)
			h.unchanged(func() {
				err := h.removing(batch, "")
				require.Error(t, err)
				require.Equal(t, transient, postgres.Transient(err), "%v", err)
			})
		})
	}
}

func TestStepWaitsForALockedRoomOnlyAWhile(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	batch := h.begin(room)
	tx, err := h.conn.Begin(h.ctx)
	require.NoError(t, err)
	h.exec(`SELECT FROM rooms WHERE room_id = $1 FOR SHARE`, room)
	err = h.removing(batch, "")
	require.ErrorContains(t, err, "lock timeout")
	require.True(t, postgres.Transient(err))
	require.NoError(t, tx.Rollback(h.ctx))
	require.NoError(t, h.removing(batch, ""))
}

// invite makes what an invitation to a room without local users leaves
// behind: an event outside its timeline, which knows of nothing.
func (h *house) invite(room, user, membership string, authEvents int) {
	h.t.Helper()
	auth := make([]string, authEvents)
	for i := range auth {
		auth[i] = fmt.Sprintf("\"$auth%d\"", i)
	}
	id := "$" + membership + " " + user
	stream := one[int64](h, `SELECT nextval('events_stream_seq')`)
	h.exec(`INSERT INTO rooms VALUES ($1, false, '', '10', true) ON CONFLICT DO NOTHING`, room)
	h.exec(`
		INSERT INTO events (event_id, room_id, type, state_key, sender, topological_ordering, depth, stream_ordering, processed, outlier)
		VALUES ($1, $2, 'm.room.member', $3, '@zoe:far', 7, 7, $4, true, true)`, id, room, user, stream)
	h.exec(`INSERT INTO event_json VALUES ($1, $2, '{"out_of_band_membership":true}', $3, 3)`, id, room,
		`{"type":"m.room.member","depth":7,"auth_events":[`+strings.Join(auth, ",")+`]}`)
	h.exec(`INSERT INTO state_events VALUES ($1, $2, 'm.room.member', $3)`, id, room, user)
	h.exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
		VALUES ($1, $2, '@zoe:far', $3, $4, $5)`, id, user, room, membership, stream)
	h.exec(`INSERT INTO local_current_membership VALUES ($1, $2, $3, $4, $5)`, room, user, id, membership, stream)
	h.exec(`INSERT INTO sliding_sync_membership_snapshots
		(room_id, user_id, sender, membership_event_id, membership, event_stream_ordering, event_instance_name, room_name)
		VALUES ($1, $2, '@zoe:far', $3, $4, $5, 'master', 'Far away')`, room, user, id, membership, stream)
}

func TestInvitationsToRoomsWithoutLocalUsersAreRejectedHere(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	const room = "!away:far"
	h.invite(room, "@bob:x", "invite", 3)
	h.invite(room, "@carol:x", "knock", 30)
	h.invite(room, "@dave:x", "invite", 2)
	h.exec(`UPDATE event_json SET json = 'nonsense' WHERE event_id = '$invite @dave:x'`)
	h.invite(room, "@erin:x", "invite", 2)
	h.exec(`DELETE FROM event_json WHERE event_id = '$invite @erin:x'`)
	before := h.newest()
	require.Equal(t, stepOutcome{Removed: []string{"@bob:x", "@carol:x", "@dave:x", "@erin:x"}},
		h.remove(h.begin(room), "", h.members(room)...))
	require.Empty(t, h.members(room), "the last two have ended without an event")
	h.whole(before)
	events := h.eventsAfter(before)
	require.Len(t, events, 2)
	for _, e := range events {
		require.True(t, e.Outlier)
		require.EqualValues(t, 8, e.Depth)
		require.Equal(t, []string{"outlier"}, all[string](h, `
			SELECT 'outlier' FROM event_json WHERE event_id = $1 AND internal_metadata::json ->> 'out_of_band_membership' = 'true'`, e.ID))
	}
	require.Len(t, all[string](h, `SELECT auth_id FROM event_auth WHERE event_id = $1`, events[0].ID), 4)
	require.Len(t, all[string](h, `SELECT auth_id FROM event_auth WHERE event_id = $1`, events[1].ID), 10)
	require.Equal(t, []string{"@bob:x leave 1 Far away", "@carol:x leave 1 Far away"}, all[string](h, `
		SELECT concat_ws(' ', user_id, membership, forgotten, room_name) FROM sliding_sync_membership_snapshots
		WHERE user_id < '@d' ORDER BY 1`))
	for _, table := range []string{"current_state_events", "current_state_delta_stream", "event_forward_extremities", "state_groups", "sliding_sync_joined_rooms"} {
		require.Zero(t, one[int](h, `SELECT count(*) FROM `+table+` WHERE room_id = $1`, room), table)
	}
}

func TestInvitationsInsideARoomAreRejectedThere(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	members := ids(h.members(room))
	// The rooms of the generator know only joins.
	for user, membership := range map[string]string{members[2]: "invite", members[3]: "knock"} {
		for _, table := range []string{"local_current_membership", "current_state_events", "room_memberships"} {
			h.exec(`UPDATE `+table+` SET membership = $1 WHERE event_id = (
				SELECT event_id FROM current_state_events WHERE room_id = $2 AND state_key = $3)`, membership, room, user)
		}
	}
	h.exec(`INSERT INTO blocked_rooms VALUES ('!new:x', '@admin:x')`)
	before, batch := h.newest(), h.begin(room)
	created := h.create(batch, members[0], "New")
	require.Equal(t, members, h.remove(batch, created, h.members(room)...).Removed, "the last two when no user is joined any more")
	h.whole(before)
	require.Equal(t, members[:2], ids(h.members(created)), "only who was joined")
	require.Empty(t, h.currentState(room))
}

func TestOddMembershipsFail(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	seed := uint64(0)
	for name, spoil := range map[string]string{
		"the state knows no member": `DELETE FROM current_state_events WHERE room_id = $1 AND state_key = $2`,
		"the state has another event": `UPDATE local_current_membership m SET event_id = c.event_id, event_stream_ordering = c.event_stream_ordering
			FROM current_state_events c WHERE m.room_id = $1 AND c.room_id = $1 AND c.type = 'm.room.create' AND m.user_id = $2`,
		"the membership is another": `UPDATE room_memberships SET membership = 'ban' WHERE room_id = $1 AND user_id = $2`,
		"no extremity":              `DELETE FROM event_forward_extremities WHERE room_id = $1 AND $2 <> ''`,
		"not all state is known":    `INSERT INTO partial_state_rooms (room_id) SELECT $1 WHERE $2 <> ''`,
		"the state group is gone":   `DELETE FROM state_groups WHERE room_id = $1 AND $2 <> ''`,
		"the room is gone":          `UPDATE local_current_membership SET room_id = '!gone:x' WHERE room_id = $1 AND $2 <> ''`,
	} {
		seed++
		room := h.generate(seed, -1)
		user := h.members(room)[0]
		h.exec(spoil, room, user.UserID)
		if name == "the room is gone" {
			room = "!gone:x"
		}
		newest := h.newest()
		require.Equal(t, stepOutcome{Failed: []string{user.UserID}}, h.remove(h.begin(room), "", user), name)
		require.Equal(t, newest, h.newest(), name)
	}
}

func TestUserWhoCannotJoinHasLeft(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	room := h.generate(1, -1)
	members := ids(h.members(room))
	batch := h.begin(room)
	created := h.create(batch, members[0], "New")
	h.remove(batch, created, h.members(room)[:2]...)
	require.Equal(t, members[:2], ids(h.members(created)))

	h.exec(`UPDATE event_json SET json = replace(json, '"public"', '"invite"') WHERE event_id = (
		SELECT event_id FROM current_state_events WHERE room_id = $1 AND type = 'm.room.join_rules')`, created)
	require.Equal(t, stepOutcome{Failed: members[2:3]}, h.remove(batch, created, h.members(room)[:1]...))
	require.Equal(t, members[3:], ids(h.members(room)), "the user has left all the same")
	require.Equal(t, stepOutcome{Removed: members[2:3]}, h.remove(batch, created, roomwriter.LocalMember{UserID: members[2]}))

	require.Equal(t, stepOutcome{Failed: members[3:]}, h.remove(batch, "!gone:x", h.members(room)...))
	require.Empty(t, h.members(room))
}

func TestJobsThatMoveUsersToTheSameRoomTakeTurns(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	hall := h.create(h.begin(h.generate(100, -1)), "@host:x", "Hall")
	var removals []func() error
	for i := range 4 {
		room, number := h.generate(uint64(i), -1), fmt.Sprintf("@%d", i)
		// Who joins from one room is not to be in another.
		h.exec(`UPDATE local_current_membership SET user_id = replace(user_id, '@', $2) WHERE room_id = $1`, room, number)
		for _, table := range []string{"current_state_events", "state_groups_state", "events"} {
			h.exec(`UPDATE `+table+` SET state_key = replace(state_key, '@', $2) WHERE room_id = $1`, room, number)
		}
		batch, members := h.begin(room), h.members(room)
		removals = append(removals, func() error {
			return errOf(h.home.RemoveUsers(h.ctx, batch, shutdown.Removal{Members: members, NewRoom: hall}))
		})
	}
	before := h.newest()
	var moves sync.WaitGroup
	errs := make([]error, len(removals))
	for i, remove := range removals {
		moves.Go(func() { errs[i] = remove() })
	}
	moves.Wait()
	require.NoError(t, errors.Join(errs...))
	h.whole(before)
	require.Len(t, h.members(hall), 17)
	require.Len(t, all[string](h, `SELECT event_id FROM event_forward_extremities WHERE room_id = $1`, hall), 1)
	depths := all[int64](h, `SELECT depth FROM events WHERE room_id = $1 ORDER BY depth`, hall)
	require.Len(t, depths, 22)
	for i, depth := range depths {
		require.EqualValues(t, i+1, depth, "each follows the one before")
	}
}

func TestNewRooms(t *testing.T) {
	t.Parallel()
	for _, version := range []matrix.RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			h := embeddedHouse(t, shutdown.EmbeddedOptions{DefaultRoomVersion: version})
			// The first two ids are taken.
			h.exec(`CREATE SEQUENCE tries`)
			h.exec(`CREATE FUNCTION taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('tries'::regclass) < 3 THEN RETURN NULL; END IF; RETURN NEW; END $$`)
			h.exec(`CREATE TRIGGER taken BEFORE INSERT ON rooms FOR EACH ROW EXECUTE FUNCTION taken()`)
			batch := h.begin("!old:x")
			room := h.create(batch, "@alice:x", "A\x00\u2028 \"name\"")
			require.True(t, matrix.ValidRoomID(room), room)
			h.whole(0)
			events := h.eventsAfter(0)
			var kinds []string
			for _, e := range events {
				kinds = append(kinds, e.Type)
				require.Equal(t, "@alice:x", e.Sender)
			}
			require.Equal(t, []string{
				"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.name",
			}, kinds)
			if version == "12" {
				require.Equal(t, "!"+events[0].ID[1:], room)
			}
			require.Equal(t, version != "11" && version != "12", strings.Contains(events[0].JSON, `"creator":"@alice:x"`))
			content := one[string](h, `SELECT json::json ->> 'content' FROM event_json WHERE event_id = $1`, events[2].ID)
			levels, err := matrixtest.ParsePowerLevels(version, []byte(content), []string{"@alice:x"})
			require.NoError(t, err)
			require.Equal(t, map[bool]int64{true: matrixtest.CreatorPower, false: 100}[version == "12"], levels.User("@alice:x"))
			require.EqualValues(t, -10, levels.User("@bob:x"))
			require.EqualValues(t, 0, levels.Send("m.room.message", false))
			require.Equal(t, map[bool]int64{true: 150, false: 100}[version == "12"], levels.Send("m.room.tombstone", true))
			require.Equal(t, []string{"false @alice:x " + string(version)},
				all[string](h, `SELECT concat_ws(' ', is_public::text, creator, room_version) FROM rooms`))

			message := shutdown.Message{NewRoom: room, Sender: "@alice:x", Body: "closed\x00"}
			require.NoError(t, h.home.SendMessage(h.ctx, batch, message))
			h.whole(0)
			h.unchanged(func() {
				message.Sender = "@bob:x"
				require.Error(t, h.home.SendMessage(h.ctx, batch, message), "who is not in the room")
				require.Error(t, errOf(h.home.CreateRoom(h.ctx, batch, shutdown.NewRoom{Creator: "@zoe:far"})), "of another server")
				message.Sender, message.Body = "@alice:x", strings.Repeat("x", 70_000)
				require.ErrorIs(t, h.home.SendMessage(h.ctx, batch, message), matrix.ErrTooLarge)
				message.NewRoom = "!gone:x"
				require.ErrorIs(t, h.home.SendMessage(h.ctx, batch, message), postgres.ErrNotFound)
			})
		})
	}
	h := embeddedHouse(t, shutdown.EmbeddedOptions{DefaultRoomVersion: "13"})
	require.ErrorIs(t, errOf(h.home.CreateRoom(h.ctx, h.begin("!old:x"), shutdown.NewRoom{Creator: "@alice:x"})), shutdown.ErrRoomVersion)
}

func TestBlockKeepsTheFirstBlocker(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	batch := h.begin("!unknown:x")
	require.NoError(t, h.home.Block(h.ctx, batch, "@one:x"))
	require.NoError(t, h.home.Block(h.ctx, batch, "@two:x"))
	require.Equal(t, []string{"!unknown:x @one:x"}, all[string](h, `SELECT room_id || ' ' || user_id FROM blocked_rooms`))
}

func TestAliasesMove(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	h.exec(`INSERT INTO room_aliases VALUES ('#b:x', '!old:x', '@b:x'), ('#a:x', '!old:x', '@a:x'), ('#c:x', '!other:x', '@c:x')`)
	batch := h.begin("!old:x")
	move := shutdown.AliasMove{NewRoom: "!new:x", Owner: "@owner:x", Requester: "@admin:x"}
	outcome, err := h.home.MoveAliases(h.ctx, batch, move)
	require.NoError(t, err)
	require.Equal(t, []string{"#a:x", "#b:x"}, outcome.Aliases)
	require.Equal(t, []string{"#a:x !new:x @admin:x", "#b:x !new:x @admin:x", "#c:x !other:x @c:x"},
		all[string](h, `SELECT concat_ws(' ', room_alias, room_id, creator) FROM room_aliases ORDER BY 1`))
	outcome, err = h.home.MoveAliases(h.ctx, batch, move)
	require.NoError(t, err)
	require.Empty(t, outcome.Aliases)
}
