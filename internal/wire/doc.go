// Package wire knows how Matrix's HTTP APIs look on the wire, as far as every
// request and every answer share it: the query string, the body, and the refusal.
//
// It promises the readings, statuses, error codes and texts of Synapse, because
// admin tools and clients rely on them. It must never decide whether a request is
// allowed, and it knows no route.
package wire
