package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lethe/internal/config"
	"lethe/internal/matrix"
	"lethe/internal/output"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/postgres"
)

// ExamineLeft scans all tables whose rows deletes delete or keep for what a deleted
// room has left, with or without an index, which may take 10 minutes for each. Rows
// that name only an event or a state group are found by those that the journal names:
// some of each delete's, for as long as its job is kept. The room's id may be any text.
func ExamineLeft(ctx context.Context, settings config.Config, room string) Report {
	var report Report
	const about = "left"
	if !matrix.ValidRoomID(room) || !postgres.Storable(room) {
		report.add(Mend, about, fmt.Sprintf("%q is not the id of a room, such as !abc:example.org", room))
		return report
	}
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe doctor", MaxConnections: 2})
	if err != nil {
		report.add(Mend, about, err.Error())
		return report
	}
	defer db.Close()
	keys, err := deletedKeys(ctx, db, room)
	if err != nil {
		report.add(Mend, about, err.Error())
		return report
	}
	scan, err := leftover.New(db, leftover.Options{Tables: settings.Tables}).Scan(ctx, keys)
	if err != nil {
		report.add(Mend, about, err.Error())
		return report
	}
	report.addScan(ctx, db, room, scan)
	return report
}

// deletedKeys returns the room, and the events and state groups of it that the journal
// has recorded as deleted.
func deletedKeys(ctx context.Context, db *postgres.DB, room string) (leftover.Keys, error) {
	keys := leftover.Keys{Rooms: []string{room}}
	samples, err := journal.NewDeletes(db).Samples(ctx, room)
	if err != nil {
		return keys, err
	}
	for _, sample := range samples {
		var deleted leftover.Sample
		if err := json.Unmarshal(sample, &deleted); err != nil {
			return keys, fmt.Errorf("decode a sample of what was deleted: %w", err)
		}
		keys.Sample = keys.Sample.With(deleted)
	}
	return keys, nil
}

// addScan reports what a scan has found.
func (r *Report) addScan(ctx context.Context, db *postgres.DB, room string, scan leftover.Scan) {
	const about = "left"
	statement := func(t leftover.Table) []string {
		if text, err := leftover.Delete(ctx, db, t); err == nil && shown(text) == text {
			return []string{text}
		}
		return nil
	}
	if scan.Exists {
		r.add(OK, about, "the room "+shown(room)+" exists, so it has rows in many tables; a delete of the room removes those that are not said to stay")
	}
	for _, t := range scan.Left {
		switch {
		case scan.Exists:
			r.add(OK, about, describeTable(t)+" of the room")
		default:
			r.add(Advice, about, describeTable(t)+": "+t.Why+"; delete the room again, or, while no homeserver and no worker runs:", statement(t)...)
		}
	}
	for _, t := range scan.Kept {
		r.add(OK, about, describeTable(t)+" that stay: "+t.Why+"; if they may go:", statement(t)...)
	}
	for _, table := range slices.Sorted(maps.Keys(scan.Failed)) {
		r.add(Advice, about, table+" was not scanned: "+scan.Failed[table].Error())
	}
	if len(scan.NotChecked) > 0 {
		r.add(Advice, about, "not scanned, since the role may not read them or they have no column that names a room, an event or a state group: "+
			strings.Join(scan.NotChecked, ", "))
	}
	if len(scan.Left) == 0 && len(scan.Failed) == 0 {
		r.add(OK, about, fmt.Sprintf("no row of the room %s is left in the %s that %s scanned", shown(room),
			output.Counted(scan.Scanned, "table"), output.Agree(scan.Scanned, "was", "were")))
	}
}

// describeTable says how many rows a table has.
func describeTable(t leftover.Table) string {
	rows := output.Counted(t.Rows, "row")
	if t.More {
		rows = "more than " + rows
	}
	return fmt.Sprintf("%s has %s by %s", t.Table, rows, t.Column)
}

// shown returns a text that is safe to print on a terminal.
func shown(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
