// Package shutdown knows how to shut a room down: in which order its users leave,
// and what they and the room's aliases get instead. It does so against a
// [Homeserver]: Embedded writes the events itself, and Remote asks a running
// homeserver.
//
// It promises that every step may be repeated without being done twice, that a user
// who cannot be removed does not keep others from being removed, and that it writes
// nothing if no event can be written into the room, unless the request forces it. It
// must never delete an event, or write an unsigned event into a room with users of
// other servers.
package shutdown
