// Package spaces knows the hierarchy of a space: the rooms and spaces in it, the rooms in
// those, and in which order a client shows them.
//
// It promises that each room is in a hierarchy once, however the spaces contain each
// other, and that a page needs bounded memory and time, whatever the spaces' owners have
// written. It must never ask another server, and never decide who may see a room: its
// caller is a server admin.
package spaces
