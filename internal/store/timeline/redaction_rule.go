package timeline

// RedactionParts are the joins that [RedactionCounts] needs, for a row d of the table
// redactions.
const RedactionParts = redactionParts

// RedactionCounts returns the condition that the row d of the table redactions
// applies to the event e of a room. room is an expression for the room's id.
func RedactionCounts(room string) string { return redactionCounts(room) }
