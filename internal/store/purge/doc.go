// Package purge knows how to delete: the history of a room up to a depth, a whole
// room, and the state groups that are left without a use. It also knows what the
// database must have for that, which lethe doctor shows.
//
// It promises that every commit of a history purge leaves what a finished purge to
// that batch's cut would leave, that a room's delete leaves nothing of it in any
// table but for what is named where the tables are listed, and that either may be
// begun again at any point. A table or trigger that it does not know stops it before
// its first write.
//
// It must never alter a table of the homeserver's, hold more of a room in memory
// than the ids of one batch's events and the places of their rows, or leave a
// reference to a row that it deleted.
package purge
