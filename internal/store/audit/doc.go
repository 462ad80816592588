// Package audit keeps who has done what, and by which way: requests for jobs, verbs, holds,
// pauses, limits and blocks.
//
// It promises that an entry is written in the transaction of its change. So the entry exists
// if the change was made, and only then.
//
// It must never change an entry, and must never invent one for what was not recorded.
package audit
