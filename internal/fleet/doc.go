// Package fleet knows what the workers share: how many rows the jobs of a kind delete per
// second, and the name under which each worker runs jobs.
//
// It promises that a worker knows a changed limit within 5 s, and that workers which keep to
// it delete no more together. It must never stop a job because Redis or the database cannot
// be reached: without an answer the last limits stay, and jobs do not pause.
package fleet
