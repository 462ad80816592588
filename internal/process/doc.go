// Package process runs Lethe's processes: the api, the worker, the scheduler and
// asynqmon, each alone or several in one. It opens what they share, waits for the
// servers that they need, serves health and metrics, and lets the work in progress
// finish when its context ends. A scheduler can also run once and end.
//
// A process that can never do its work returns the reason. A process that only has
// to wait for a server waits, and reports that it is not ready. After it has
// returned, nothing that it started is left. The package decides nothing about a
// job or a request.
package process
