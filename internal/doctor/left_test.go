package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

func examineLeft(w *ward, room string) Report {
	settings := config.Default()
	settings.Database.URL = config.Secret(w.url)
	settings.Tables = schema.Rules{"stars": schema.Keep}
	return ExamineLeft(w.ctx, settings, room)
}

// said is the report as it is printed.
func said(t *testing.T, report Report) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, report.Print(&text))
	return text.String()
}

// The scan finds rows in tables with and without an index, by the room and by what the
// journal knows of its deletes, and its statements delete them.
func TestLeft(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	const room = `!it's"gone:x`
	require.Equal(t, "ok      left        no row of the room !it's\"gone:x is left in the 65 tables that were scanned\n",
		said(t, examineLeft(w, room)))

	w.exec(`CREATE TABLE stars (room_id text)`,
		`INSERT INTO stars VALUES ('!it''s"gone:x')`,
		`INSERT INTO room_tags (user_id, room_id, tag, content) VALUES ('@u:x', '!it''s"gone:x', 't', '{}')`,
		`INSERT INTO event_auth (event_id, auth_id, room_id) VALUES ('$e', '$a', '!it''s"gone:x')`,
		`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ('$e', '!other:x', '{}', '{}')`)
	db, err := postgres.Open(w.ctx, w.url, postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	defer db.Close()
	id := jobs.NewID()
	require.NoError(t, journal.New(db).InsertJob(w.ctx, journal.Job{
		ID: id, Kind: jobs.DeleteRoom, Room: room, Parameters: []byte(`{}`), Requester: "@admin:x", State: journal.Queued, Generation: 1,
	}, false))
	w.exec(`UPDATE lethe.jobs SET checkpoint = '{"sample": {"events": ["$e", "$f"]}}'`)

	report := examineLeft(w, room)
	text := said(t, report)
	require.True(t, report.Healthy())
	for _, part := range []string{
		"advice  left        event_auth has 1 row by ", "advice  left        event_json has 1 row by event_id: ",
		"advice  left        room_tags has 1 row by room_id: ", "ok      left        stars has 1 row by room_id that stay: the setting tables keeps it",
	} {
		require.Contains(t, text, part)
	}
	for _, finding := range report {
		for _, statement := range finding.Do {
			w.exec(statement)
		}
	}
	require.Contains(t, said(t, examineLeft(w, room)), "no row of the room")

	// A room that is there has its rows by right.
	report = examineLeft(w, w.rooms[0].Room)
	text = said(t, report)
	require.Contains(t, text, "the room "+w.rooms[0].Room+" exists")
	require.NotContains(t, text, "advice")
	require.NotContains(t, text, "DELETE FROM")
}

func TestLeftRefusesOtherTexts(t *testing.T) {
	t.Parallel()
	settings := config.Default()
	settings.Database.URL = "postgres://127.0.0.1:1/none"
	for _, room := range []string{"", "room", "@user:x", "!room", "!room:", "!\x00:x", "!\xff:x", "'; DROP TABLE rooms; --"} {
		report := ExamineLeft(context.Background(), settings, room)
		require.False(t, report.Healthy(), room)
		require.Contains(t, said(t, report), "is not the id of a room", room)
		require.NotContains(t, said(t, report), "\x00")
	}
}
