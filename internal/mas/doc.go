// Package mas knows Matrix Authentication Service, which keeps the accounts of a
// homeserver that has delegated them: how it is asked for whom an access token speaks
// (RFC 7662), and what its answers mean.
//
// It promises that every request ends, that no answer is read further than a bound, that
// no redirect is followed, and that a service which cannot answer can be told from one
// that knows no such token: the first is [ErrUnavailable]. It must never keep an access
// token, or let one or the secret into an error or a log. It knows nothing of the
// database: whether the user exists there is up to the caller.
package mas
