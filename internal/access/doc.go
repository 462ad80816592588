// Package access knows who may send a request: it finds the request's access token,
// finds out for whom the token speaks, and slows down callers that guess tokens.
//
// It promises that an admin's request is checked each time, unless the handler only
// reads history. What a homeserver or Matrix Authentication Service has answered about a
// token counts for some seconds. It promises that wrong tokens are limited by the address
// that sends them, and that its memory is bounded. A caller is refused with Matrix's own
// errors, each a [wire.Error].
//
// It must never keep an access token longer than the request, nor put one into an
// error. It knows nothing of what a request asks for.
package access
