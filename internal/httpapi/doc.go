// Package httpapi serves Synapse's admin API and, of the client-server API, the
// history of rooms. A handler parses the request, calls another package and renders
// the answer.
//
// It promises the statuses, error codes and texts that admin tools and clients know.
// It checks who sends a request before it reads anything else of it. No input makes
// it panic or answer 5xx.
//
// It must never contain SQL, talk to Redis or decide anything. It must never log a
// path or a query string, because they contain ids and access tokens. It must never
// show an internal error to a caller.
package httpapi
