// Package audit keeps who has done what: requests for jobs, verbs, holds, pauses, limits and
// blocks, with the way by which it came.
//
// It promises that an entry is written in the transaction of the change that it tells of, so
// that there is one exactly if the change was made.
//
// It must never change an entry, and must never invent one for what was not recorded.
package audit
