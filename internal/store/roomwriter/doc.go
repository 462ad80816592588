// Package roomwriter knows how to write events into a homeserver's rooms: new rooms,
// memberships and messages, with all tables that a homeserver keeps for an event.
//
// It promises that everything one batch writes is committed with the job's
// checkpoint or not at all, and that a homeserver which starts afterwards continues
// from there. It must never write while a homeserver runs on the database, or decide
// who may send what.
package roomwriter
