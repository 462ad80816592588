package footprint

import (
	"context"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// redactionsGone counts the redactions that are deleted, and those that have outlived
// their redaction and now lose their target.
const redactionsGone = `
	SELECT count(*) FROM (
		SELECT t.event_id FROM redactions t WHERE t.event_id ` + isGone + `
		UNION
		SELECT t.event_id FROM redactions t
		WHERE t.redacts ` + isGone + ` AND t.have_censored
		  AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = t.event_id OFFSET 0)) t`

// censored selects the texts of the events that stay and that a deleted redaction
// redacts. A purge prunes such an event, and keeps the row of the redaction.
var censored = `
	WITH ` + gone + `
	SELECT j.json
	FROM (
		SELECT d.*, ` + timeline.RedactionConfirmed + ` AS confirmed FROM redactions d WHERE d.event_id ` + isGone + ` OFFSET 0
	) d
	CROSS JOIN LATERAL (SELECT t.event_id, t.room_id, t.type, t.sender FROM events t WHERE t.event_id = d.redacts OFFSET 0) e
	CROSS JOIN LATERAL (SELECT t.json FROM event_json t WHERE t.event_id = d.redacts OFFSET 0) j` + timeline.RedactionParts() + `
	WHERE e.room_id = $1 AND ` + timeline.RedactionCounts("$1") + `
	  AND NOT EXISTS (SELECT FROM ` + eventsAndState + ` WHERE e.event_id = d.redacts AND ` + goes + ` OFFSET 0)`

// subtractCensored subtracts the redactions from the figure that stay with the event
// that they redact. An event that is not an object cannot be pruned, and its redaction
// goes.
func (s *Snapshot) subtractCensored(ctx context.Context, args []any, tables map[string]Figure) error {
	rows, err := s.tx.Query(ctx, censored, args...)
	if err != nil {
		return err
	}
	var text string
	var kept int64
	if _, err := pgx.ForEachRow(rows, []any{&text}, func() error {
		if _, ok := matrix.SplitObject(nil, []byte(text)); ok {
			kept++
		}
		return nil
	}); err != nil {
		return err
	}
	tables["redactions"] = s.counted("redactions", tables["redactions"].Rows-kept)
	return nil
}
