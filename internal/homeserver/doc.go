// Package homeserver knows a homeserver's HTTP API: what Lethe requests as an
// application service, how the homeserver identifies the user of an access token,
// and how a request is passed on.
//
// It promises that every request ends, that no answer is read further than a bound,
// and that a homeserver which cannot answer can be told from one that refuses: the
// first is [ErrUnavailable], the second an [Error]. It must never keep a caller's
// access token, let one into an error or a log, or decide anything about a job.
package homeserver
