package matrix

// A PageToken is a place in the timeline of a room, as clients pass it around.
type PageToken struct{}

// ParsePageToken parses a token of any form.
func ParsePageToken(s string) (PageToken, error) { panic("owned by another piece") }

// String formats the token as it is written on the wire.
func (t PageToken) String() string { panic("owned by another piece") }
