package messages

// A Filter says which events of a room are wanted. The zero Filter wants all.
type Filter struct{}
