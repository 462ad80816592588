// Package operator is the API below /_lethe/v1: jobs, the verbs that steer them, plans,
// rooms, pauses and the limits of the fleet.
//
// It promises that an answer has the form which docs/openapi.json describes, and that a
// request that is refused has changed nothing.
//
// It must never decide itself what a verb does to a job, nor delete anything: stores and
// workers do.
package operator
