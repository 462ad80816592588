// Package homeserver knows a homeserver's HTTP API: what Lethe asks of it as an
// application service, how it says for whom an access token speaks, and how a
// request is passed on to it.
//
// It promises that every request ends, that no answer is read further than a
// bound, and that a homeserver which cannot answer is told apart from one that
// refuses: the first is [ErrUnavailable], the second an [Error]. It must never
// keep a caller's access token, nor let one into an error or a log, and it
// decides nothing about a job.
package homeserver
