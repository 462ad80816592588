// Package process knows what each of Lethe's processes is made of, and runs any
// of them, or all in one: it opens what they share, waits for the database,
// serves health and metrics, and drains when its context ends. A scheduler may
// also be one that ends by itself.
//
// It promises that a process which cannot do its work says why and exits, that
// one which only has to wait for a server waits and is not ready meanwhile, and
// that after a drain nothing that it started is left. It must never decide
// anything about a job or a request.
package process
