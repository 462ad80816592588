package timeline

// recheckNote is what a homeserver notes about a redaction whose sender's own power
// was not enough: that it is only for events of the sender's server. It is a pattern
// for text, since what was stored need not be JSON.
const recheckNote = `'"recheck_redaction"\s*:\s*true'`

// sameServer is the condition that the senders of the events a and b are of the same
// server.
func sameServer(a, b string) string {
	return `substr(` + a + `.sender, strpos(` + a + `.sender, ':')) = substr(` + b + `.sender, strpos(` + b + `.sender, ':'))`
}

// confirmed is the condition that the row d of the table redactions is known to count.
// Schemas before 94 do not have the column, and know it of none.
const confirmed = `(to_jsonb(d) ->> 'recheck' IS NOT DISTINCT FROM 'false')`

// Any confirmed redaction counts, even if it is gone itself. Others came before what
// they redact, or are of a homeserver that has yet to fill the column: such a one counts
// if it is there, was not rejected, is of the same room, and is by a sender of the same
// server if the homeserver noted that this matters. The column does not say so: it is
// true of every redaction of before there was one, whoever sent it. What made a room is
// never redacted.
//
// redactionParts are what is joined to a redaction d, and redactionCounts is the
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

// firstThatCounts is the order in which of several redactions one is told of.
const firstThatCounts = confirmed + ` DESC, de.stream_ordering, d.event_id`

// redactionOf is the subquery of the redaction that an event e is read with: one row or
// none, of its id, JSON and metadata.
var redactionOf = `(
		SELECT d.event_id, dj.json, dj.internal_metadata
		FROM redactions d` + redactionParts + `
		WHERE d.redacts = e.event_id AND ` + redactionCounts("e.room_id") + `
		ORDER BY ` + firstThatCounts + `
		LIMIT 1
	)`

// redactionsOfPage are those of the events of the page, of the room $1: most have none,
// which one scan of an index says for all of them.
var redactionsOfPage = `
		SELECT DISTINCT ON (d.redacts) d.redacts, d.event_id, dj.json, dj.internal_metadata
		FROM (SELECT d.* FROM redactions d WHERE d.redacts = ANY (ARRAY(SELECT event_id FROM page)) OFFSET 0) d
		JOIN page e ON e.event_id = d.redacts` + redactionParts + `
		WHERE ` + redactionCounts("$1") + `
		ORDER BY d.redacts, ` + firstThatCounts + `
	`

// redactsSomething is the subquery that is true if an event e, a redaction of the room
// $1 with its metadata in j, redacts one that is there and that it may redact, and is
// not true if it is not to be told of.
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
