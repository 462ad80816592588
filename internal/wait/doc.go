// Package wait knows how Lethe waits: between the attempts of an operation that
// fails, and between the rounds of a loop.
//
// It promises that each wait ends with its context, and that processes which wait
// for the same thing do not return at the same moment. It must never decide which
// errors are worth another attempt: its callers know that.
package wait
