// Package monitor serves asynqmon, which shows asynq's queues in a browser.
//
// It promises that asynqmon connects to Redis like every other process, and that
// browsers load nothing from other sites and do not show the pages in a frame. It must
// never decide who may see the pages: package httpapi authorises each request first.
package monitor
