// Package client speaks the API below /_lethe/v1: over the network, or with the handler
// of that API in the same process.
//
// It promises that an answer is bounded in size, that a token is sent to one server only,
// and that no method repeats a request that changes something. It must never print
// anything: what it returns was written by others, and is not safe for a terminal.
package client
