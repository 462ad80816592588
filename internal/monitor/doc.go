// Package monitor knows asynqmon, which shows the queues of asynq in a browser,
// and how it is made to fit Lethe's Redis and a page that nobody else may use.
//
// It promises that asynqmon reaches Redis as every other process does, and that
// a browser loads nothing from elsewhere and lends the page to no other. It must
// never decide who may see the page: package httpapi does, and it does not serve
// a request before.
package monitor
