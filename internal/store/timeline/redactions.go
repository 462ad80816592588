package timeline

// recheckNote finds the homeserver's note about a redaction whose sender did not
// have the power to redact any event: such a redaction applies only to events of the
// sender's server. It is a pattern for text, since stored metadata need not be JSON.
const recheckNote = `'"recheck_redaction"\s*:\s*true'`

// sameServer is the condition that the senders of the events a and b are on the same
// server.
func sameServer(a, b string) string {
	return `substr(` + a + `.sender, strpos(` + a + `.sender, ':')) = substr(` + b + `.sender, strpos(` + b + `.sender, ':'))`
}

// confirmed is the condition that the row d of the table redactions is known to
// apply. Schemas before 94 do not have the column, so no redaction there is known to
// apply.
const confirmed = `(to_jsonb(d) ->> 'recheck' IS NOT DISTINCT FROM 'false')`

// A confirmed redaction applies even if it is gone itself. Other redactions arrived
// before the event that they redact, or belong to a homeserver that has not filled
// the column yet. Such a redaction applies if it exists, was not rejected and is in
// the same room. If the homeserver has noted that it matters, the sender must also
// be on the same server. The column does not say that: it is true for every
// redaction from before the column existed, by any sender. An m.room.create event is
// never redacted.
//
// redactionParts are the joins for a redaction d, and redactionCounts is the
// condition, for an event e of the room.
const redactionParts = `
	LEFT JOIN LATERAL (
		SELECT de.room_id, de.sender, de.rejection_reason, de.stream_ordering FROM events de WHERE de.event_id = d.event_id LIMIT 1
	) de ON true
	LEFT JOIN LATERAL (SELECT dj.json, dj.internal_metadata FROM event_json dj WHERE dj.event_id = d.event_id LIMIT 1) dj ON true
	LEFT JOIN LATERAL (SELECT dx.event_id FROM rejections dx WHERE dx.event_id = d.event_id LIMIT 1) dx ON true`

func redactionCounts(room string) string {
	return `e.type <> 'm.room.create' AND (` + confirmed + `
		OR de.room_id = ` + room + ` AND de.rejection_reason IS NULL AND dx.event_id IS NULL
		   AND (dj.internal_metadata !~ ` + recheckNote + ` OR ` + sameServer("de", "e") + `))`
}

// firstThatCounts is the order in which one of several redactions is chosen.
const firstThatCounts = confirmed + ` DESC, de.stream_ordering, d.event_id`

// redactionOf is the subquery of the redaction of an event e: at most one row, with
// its id, JSON and metadata.
var redactionOf = `(
		SELECT d.event_id, dj.json, dj.internal_metadata
		FROM redactions d` + redactionParts + `
		WHERE d.redacts = e.event_id AND ` + redactionCounts("e.room_id") + `
		ORDER BY ` + firstThatCounts + `
		LIMIT 1
	)`

// redactionsOfPage selects the redactions of the events of a page, in the room $1.
// Most events have none, which one scan of an index finds out for all of them.
var redactionsOfPage = `
		SELECT DISTINCT ON (d.redacts) d.redacts, d.event_id, dj.json, dj.internal_metadata
		FROM (SELECT d.* FROM redactions d WHERE d.redacts = ANY (ARRAY(SELECT event_id FROM page)) OFFSET 0) d
		JOIN page e ON e.event_id = d.redacts` + redactionParts + `
		WHERE ` + redactionCounts("$1") + `
		ORDER BY d.redacts, ` + firstThatCounts + `
	`

// redactsSomething is a subquery for an event e, a redaction in the room $1, with
// its metadata in j. It is true if e redacts an existing event that it may redact.
// Otherwise readers must not see e.
var redactsSomething = `(
		SELECT true
		FROM redactions d
		JOIN events t ON t.event_id = d.redacts
		JOIN event_json tj ON tj.event_id = t.event_id
		LEFT JOIN rejections tx ON tx.event_id = t.event_id
		WHERE d.event_id = e.event_id
		  AND t.room_id = $1 AND t.type <> 'm.room.create' AND t.rejection_reason IS NULL AND tx.event_id IS NULL
		  AND (` + confirmed + ` OR j.internal_metadata !~ ` + recheckNote + ` OR ` + sameServer("e", "t") + `)
		LIMIT 1
	)`
