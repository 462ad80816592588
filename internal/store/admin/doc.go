// Package admin knows what the admin API reads of a homeserver's database, and the
// little that it writes without a job: whose an access token is, rooms and their
// state, blocks, forward extremities, and the positions of events.
//
// It promises that every read survives a restart of the server, and that an unknown
// id is [postgres.ErrNotFound]. It must never delete a room's history: that takes a
// job.
package admin
