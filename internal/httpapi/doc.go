// Package httpapi serves Synapse's admin API, and of the client-server API the
// history of rooms: it parses, authorises, calls and renders. It is the only package that knows Matrix error bodies.
//
// It promises the statuses, error codes and texts that admin tools and clients know; that a
// caller is authorised before anything of the request is judged; and that no
// input makes it panic or answer 5xx.
//
// It must never hold SQL, talk to Redis or take a decision. It must never log a
// path or a query string, which hold ids and access tokens, nor show a caller
// an internal error.
package httpapi
