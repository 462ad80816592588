// Package wait knows how Lethe waits: between the tries of an operation that
// failed, and between the looks of a loop.
//
// It promises that each wait ends with its context, and that processes which wait
// for the same thing do not come back at the same moment. It must never decide
// which errors are worth another try: its callers know that.
package wait
