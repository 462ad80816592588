// Package purge knows how to delete: the history of a room up to a depth, a whole
// room, and unused state groups. It also knows what the database must have for that,
// which lethe doctor shows.
//
// It promises that every commit of a history purge leaves what a finished purge to
// that batch's cut would leave, and that either kind of purge may begin again at any
// point. A room's delete leaves nothing of the room in any table, except the tables
// that roomTables names as exceptions. An unknown table or trigger stops a purge
// before its first write.
//
// It must never alter a table of the homeserver's, hold more of a room in memory
// than the ids of one batch's events and the places of their rows, or leave a
// reference to a row that it deleted.
package purge
