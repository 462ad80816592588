package timeline

import (
	"context"

	"lethe/internal/store/postgres"
)

// What decides whether an event is read, and how it is shown, is in these tables of
// Synapse: events, event_json, rooms (the version), rejections, redactions and
// room_ban_redactions. Nothing else is read for the event alone. What is shown with
// it, and who may see it, come from further tables: event_relations, ignored_users,
// erased_users, event_to_state_groups with the state, room_retention, account_data.
// A test has rows in each of the first six.

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
const confirmed = `(pg_catalog.to_jsonb(d) ->> 'recheck'::text IS NOT DISTINCT FROM 'false')`

// bans says whether the database has the table room_ban_redactions, which schemas
// before 92 do not have. Its rows are bans and kicks that redact all events of a user
// in a room (MSC4293), without a row in redactions.
type bans bool

// hasBans looks for the table. It must not be called in a transaction, because it may
// need another connection.
func hasBans(ctx context.Context, db *postgres.DB) (bans, error) {
	has, err := db.HasTable(ctx, "room_ban_redactions")
	return bans(has), err
}

// banCovers is the condition that a row b of room_ban_redactions redacts the event e
// of its room and user. It does not redact what arrived after the user was let in
// again, which is at redact_end_ordering. A ban without an end has NULL or 0 there.
func banCovers(e string) string {
	return `(coalesce(b.redact_end_ordering, 0) = 0 OR ` + e + `.stream_ordering < b.redact_end_ordering)`
}

// A confirmed redaction applies even if it is gone itself. Other redactions arrived
// before the event that they redact, belong to a homeserver that has not filled the
// column yet, or are bans. Such a redaction applies if it exists, was not rejected
// and is in the same room. If the homeserver has noted that it matters, the sender
// must also be on the same server. The column does not say that: it is true for
// every redaction from before the column existed, by any sender. An m.room.create
// event is never redacted.
//
// redactionParts are the joins for a redaction d, and redactionCounts is the
// condition, for an event e of the room. The joined tables are named after d.
func redactionParts(d string) string {
	return `
	LEFT JOIN LATERAL (
		SELECT o.event_id, o.type, o.room_id, o.sender, o.rejection_reason, o.stream_ordering
		FROM events o WHERE o.event_id = ` + d + `.event_id LIMIT 1
	) ` + d + `e ON true
	LEFT JOIN LATERAL (SELECT o.json, o.internal_metadata FROM event_json o WHERE o.event_id = ` + d + `.event_id LIMIT 1) ` + d + `j ON true
	LEFT JOIN LATERAL (SELECT o.event_id FROM rejections o WHERE o.event_id = ` + d + `.event_id LIMIT 1) ` + d + `x ON true`
}

func redactionCounts(d, e, room string) string {
	return e + `.type <> 'm.room.create' AND (` + d + `.confirmed
		OR ` + d + `e.room_id = ` + room + ` AND ` + d + `e.rejection_reason IS NULL AND ` + d + `x.event_id IS NULL
		   AND (` + d + `j.internal_metadata !~ ` + recheckNote + ` OR ` + sameServer(d+"e", e) + `))`
}

// firstThatCounts is the order in which one of several redactions d is chosen.
const firstThatCounts = `d.confirmed DESC, d.ban, de.stream_ordering, d.event_id`

// redactionsOf is the table of the redactions of an event e, whether or not they
// count.
func (has bans) redactionsOf(e string) string {
	sql := `
		SELECT d.event_id, ` + confirmed + ` AS confirmed, false AS ban FROM redactions d WHERE d.redacts = ` + e + `.event_id`
	if has {
		sql += `
		UNION ALL
		SELECT b.redacting_event_id, false, true FROM room_ban_redactions b
		WHERE b.room_id = ` + e + `.room_id AND b.user_id = ` + e + `.sender AND ` + banCovers(e)
	}
	return `(` + sql + `
		)`
}

// isRedacted is the condition that an event e, which may be a redaction, is redacted.
func (has bans) isRedacted(e string) string {
	return `EXISTS (SELECT FROM ` + has.redactionsOf(e) + ` r` + redactionParts("r") + `
		WHERE ` + redactionCounts("r", e, e+".room_id") + `)`
}

// redactionOf is the subquery of the redaction of an event e: at most one row, with
// its id, JSON and metadata, and whether it is redacted itself.
func (has bans) redactionOf() string {
	return `(
		SELECT d.event_id, dj.json, dj.internal_metadata, ` + has.isRedacted("de") + ` AS redacted
		FROM ` + has.redactionsOf("e") + ` d` + redactionParts("d") + `
		WHERE ` + redactionCounts("d", "e", "e.room_id") + `
		ORDER BY ` + firstThatCounts + `
		LIMIT 1
	)`
}

// redactionsOfPage selects the redactions of the events of a page, in the room $1.
// Most events have none, which one scan of an index finds out for all of them.
func (has bans) redactionsOfPage() string {
	sql := `
			SELECT d.redacts, d.event_id, ` + confirmed + ` AS confirmed, false AS ban
			FROM (SELECT d.* FROM redactions d WHERE d.redacts = ANY (ARRAY(SELECT event_id FROM page)) OFFSET 0) d`
	if has {
		sql += `
			UNION ALL
			SELECT p.event_id, b.redacting_event_id, false, true
			FROM (
				SELECT b.* FROM room_ban_redactions b
				WHERE b.room_id = $1 AND b.user_id = ANY (ARRAY(SELECT sender FROM page)) OFFSET 0
			) b
			JOIN page p ON p.sender = b.user_id AND ` + banCovers("p")
	}
	return `
		SELECT DISTINCT ON (d.redacts) d.redacts, d.event_id, dj.json, dj.internal_metadata, ` + has.isRedacted("de") + ` AS redacted
		FROM (` + sql + `
		) d
		JOIN page e ON e.event_id = d.redacts` + redactionParts("d") + `
		WHERE ` + redactionCounts("d", "e", "$1") + `
		ORDER BY d.redacts, ` + firstThatCounts + `
	`
}

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
