// Package extent knows how much a job will go through, so that its progress has an end.
//
// It promises to answer within seconds or not at all: a job must not wait for its own
// progress bar. It must never write anything but the total in the job's row, nor lock a row
// of the homeserver's.
package extent
