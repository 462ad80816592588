// Package pager reads pages of a room's messages, one after the other, to measure how long
// that takes: over HTTP, or with a bare query.
//
// It promises that it parses of a page only where the next one begins, so that the time is
// that of the server. It must never read several pages at once, or write anything.
package pager
