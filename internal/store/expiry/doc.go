// Package expiry knows how sweeps decide: the retention policies of rooms, where to
// cut a room at a moment, and which rooms this server's users have abandoned.
//
// It promises that a page of rooms costs the same however large the rooms are, and
// that expiry depends on the time of arrival at this server. It must never delete
// anything of a room.
package expiry
