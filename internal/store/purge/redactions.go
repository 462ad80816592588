package purge

import (
	"context"
	"fmt"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"

	"github.com/jackc/pgx/v5"
)

// A redaction is in force as long as it exists: readers prune its target. So before a
// redaction goes whose target stays, the batch writes the pruned target. The row of
// redactions then stays as long as the target, and says that it has been pruned.

// selectRedacted selects the events that stay in the room $1 and that are redacted by
// a deletable event, with whether an index has found the rows that it should have.
// OFFSET makes the planner look up the few targets one by one.
var selectRedacted = statement{what: "select the redacted events", sql: `
	SELECT d.event_id, e.event_id, r.room_version, j.json,
	       d.meant AND e.event_id = d.redacts AND j.event_id = d.redacts
	FROM (
		SELECT d.*, ` + timeline.RedactionConfirmed + ` AS confirmed, d.event_id = s.event_id AS meant
		FROM pg_temp.lethe_selected s JOIN redactions d ON d.event_id = s.event_id WHERE s.deletable OFFSET 0
	) d
	CROSS JOIN LATERAL (SELECT t.event_id, t.room_id, t.type, t.sender FROM events t WHERE t.event_id = d.redacts OFFSET 0) e
	CROSS JOIN LATERAL (SELECT t.event_id, t.json FROM event_json t WHERE t.event_id = d.redacts OFFSET 0) j
	LEFT JOIN rooms r ON r.room_id = e.room_id` + timeline.RedactionParts() + `
	WHERE e.room_id = $1 AND e.event_id NOT IN ` + deletableIDs + ` AND ` + timeline.RedactionCounts("$1")}

var (
	// censor writes the events $2 as $3, and noteCensored notes that their redactions
	// $2 have done what they should.
	censor = checked("write the redacted events", `
		UPDATE event_json j SET json = c.json FROM unnest($2::text[], $3::text[]) AS c (event_id, json)
		WHERE j.event_id = c.event_id`, `j.event_id = c.event_id AND j.room_id = $1`)
	noteCensored = checked("note the redacted events", `
		UPDATE redactions d SET have_censored = true WHERE d.event_id = ANY ($1)`, `d.event_id = ANY ($1)`)
)

// redactionStatements delete the rows of redactions that belong to deletable events,
// and those that have outlived their redaction and now lose their target.
var redactionStatements = []statement{
	checked("delete from redactions", `
		DELETE FROM redactions t USING pg_temp.lethe_selected s
		WHERE s.deletable AND NOT s.has_censored AND t.event_id = s.event_id`, `t.event_id = s.event_id`).of("redactions"),
	forgetCensored,
}

var forgetCensored = checked("delete the redactions of deleted events", `
	DELETE FROM redactions t USING pg_temp.lethe_selected s
	WHERE s.deletable AND t.redacts = s.event_id AND t.have_censored
	  AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = t.event_id OFFSET 0)`, `t.redacts = s.event_id`).of("redactions")

// censorRedacted writes the events that stay as their deletable redactions demand.
func censorRedacted(ctx context.Context, b *batch) error {
	var redactions, targets, pruned []string
	var redaction, target, text string
	var version *string
	var meant bool
	var wrong int
	rows, err := b.Query(ctx, selectRedacted.sql, b.Room())
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&redaction, &target, &version, &text, &meant}, func() error {
			if !meant {
				wrong++
			}
			if left, ok := prune(version, text); ok {
				redactions, targets, pruned = append(redactions, redaction), append(targets, target), append(pruned, left)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", selectRedacted.what, err)
	}
	if wrong > 0 {
		return b.corrupt(ctx, nil, selectRedacted, []any{b.Room()})
	}
	if len(redactions) == 0 {
		return nil
	}
	if _, err := b.execChecked(ctx, censor, b.Room(), targets, pruned); err != nil {
		return err
	}
	if _, err := b.execChecked(ctx, noteCensored, redactions); err != nil {
		return err
	}
	_, err = b.exec(ctx, "mark the redactions", `
		UPDATE pg_temp.lethe_selected SET has_censored = true WHERE event_id = ANY ($1)`, redactions)
	return err
}

// prune returns the JSON of an event without what a redaction removes. It reports
// false if the text is not an object, which no reader shows. Unlike [matrix.Redact]
// it accepts an event of an unknown version.
func prune(version *string, text string) (pruned string, ok bool) {
	fields, ok := matrix.SplitObject(nil, []byte(text))
	if !ok {
		return "", false
	}
	var rules matrix.RoomVersion
	if version != nil {
		rules = matrix.RoomVersion(*version)
	}
	kind, _ := matrix.Text(fields.Get("type"))
	left := []byte("{")
	for _, field := range fields {
		if !matrix.RedactionKeeps(rules, field.Name) {
			continue
		}
		if len(left) > 1 {
			left = append(left, ',')
		}
		left = append(append(left, field.Key...), ':')
		if string(field.Name) == "content" {
			left = matrix.AppendRedactedContent(left, rules, kind, field.Value)
		} else {
			left = append(left, field.Value...)
		}
	}
	if len(left) > 1 {
		left = append(left, ',')
	}
	return string(append(appendKeptUnsigned(left, fields.Get("unsigned")), '}')), true
}

// appendKeptUnsigned appends the key unsigned with what Synapse keeps of it when it
// censors an event.
func appendKeptUnsigned(dst, unsigned []byte) []byte {
	fields, _ := matrix.SplitObject(nil, unsigned)
	dst = append(dst, `"unsigned":{`...)
	start := len(dst)
	for _, field := range fields {
		switch string(field.Name) {
		case "age_ts", "replaces_state":
			if len(dst) > start {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, field.Key...), ':'), field.Value...)
		}
	}
	return append(dst, '}')
}
