// Package sweep knows which rooms have expired events or are abandoned now, and makes
// the jobs that purge or delete them.
//
// It promises that a sweep decides about every room, a page at a time, and that a page's
// jobs are accepted together with the checkpoint after it, however often the sweep is
// interrupted. A room that cannot be decided keeps no other room from its turn. It must
// never delete anything of a room itself, nor take a room's lock: the jobs that it makes
// decide about their room once more.
package sweep
