// Package cli is the command lethe: the operator's tool, and every process by its name.
//
// It promises that --output json prints one document on stdout and everything else on
// stderr, that a command that is refused has changed nothing, and that what others wrote
// is printed without control characters. It must never do itself what the API below
// /_lethe/v1 does: it asks the API, over the network or in the process.
package cli
