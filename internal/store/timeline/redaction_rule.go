package timeline

// RedactionConfirmed is the condition that the row d of the table redactions applies
// whatever becomes of the redaction.
const RedactionConfirmed = confirmed

// RedactionParts returns the joins that [RedactionCounts] needs, for a row d of the
// table redactions.
func RedactionParts() string { return redactionParts("d") }

// RedactionCounts returns the condition that the row d of the table redactions
// applies to the event e of a room. d has [RedactionConfirmed] as its column
// confirmed. room is an expression for the room's id.
func RedactionCounts(room string) string { return redactionCounts("d", "e", room) }
