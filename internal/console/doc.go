// Package console is web pages for operators: what runs, what waits and why, and the verbs
// that steer jobs.
//
// It promises that a page works without its script, loads nothing from elsewhere, and
// escapes all that it shows. A change needs a session, the session's own form, and a user
// who may change something.
//
// It must never decide what a request may do: each read and each change is a call of package
// operator, as the API's own requests are. It must never write an access token into a page,
// a log or an error.
package console
