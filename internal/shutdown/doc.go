// Package shutdown knows how a room is shut down: whom it is closed for, in which
// order, and what its members and aliases get instead. It does so against a
// [Homeserver]: Embedded writes the events itself, Remote asks a homeserver
// to.
//
// It promises that every step may be repeated without being done twice, that a user
// who cannot be moved keeps no other user from being moved, and that it writes nothing
// if no event can be written into the room, unless the request forces it. It must never
// delete an event, or write one that is not signed into a room that other servers
// are in.
package shutdown
