package jobs

import (
	"slices"

	"lethe/internal/store/journal"
)

// The kinds of jobs. [Registry] describes each.
const (
	PurgeHistory   journal.Kind = "purge_history"
	DeleteRoom     journal.Kind = "delete_room"
	RetentionSweep journal.Kind = "retention_sweep"
	AbandonedSweep journal.Kind = "abandoned_sweep"
)

// The queues of tasks. Critical has the jobs that an operator watches, Default those
// that an operator has requested, and Low those that sweeps make.
const (
	Critical journal.Queue = "critical"
	Default  journal.Queue = "default"
	Low                    = journal.LowQueue
)

// Queues returns all queues, the most urgent first.
func Queues() []journal.Queue { return []journal.Queue{Critical, Default, Low} }

// A Yield is a reason for which a run gives its job back without having failed.
type Yield string

// The reasons. [Yields] describes each.
const (
	YieldDrain       Yield = "drain"
	YieldHeld        Yield = "held"
	YieldLowQueue    Yield = "low queue"
	YieldPurgeDelay  Yield = "purge delay"
	YieldQueueFull   Yield = "queue full"
	YieldRate        Yield = "rate"
	YieldRoomBusy    Yield = "room busy"
	YieldRoomLocked  Yield = "room locked"
	YieldSlice       Yield = "slice"
	YieldTimeout     Yield = "timeout"
	YieldUnreachable Yield = "database unreachable"
)

// An Action is what the reconciler does to a job.
type Action string

// The actions. [Actions] describes each.
const (
	ActionReleased Action = "released"
	ActionMissed   Action = "missed"
	ActionEnqueued Action = "enqueued"
	ActionResumed  Action = "resumed"
)

// A Word is a value of a metric's label, with what it means.
type Word[T ~string] struct {
	Name  T
	Means string
}

// A Definition describes a kind of job.
type Definition struct {
	Kind journal.Kind

	// Means says what a job of the kind does.
	Means string

	// Queue is the queue of its tasks, unless a job names another.
	Queue journal.Queue

	// Ends are the states in which a job of the kind may end.
	Ends []journal.State

	// Yields are the reasons for which a run may give a job of the kind back.
	Yields []Yield

	// TaskAction is the word for the kind in the admin API's list of tasks.
	TaskAction string

	// Sweep are the outcomes that the kind counts for each room, nil unless it is a
	// sweep.
	Sweep []Word[string]
}

// anyRun are the reasons for which a run of any kind may give its job back.
var anyRun = []Yield{YieldDrain, YieldRoomBusy, YieldSlice, YieldTimeout, YieldUnreachable}

// Registry describes all kinds of jobs. Whatever depends on the kind of a job, and is
// not its work, is here: its queue, its metrics, and the words for it.
func Registry() []Definition {
	always := []journal.State{journal.Complete, journal.Failed}
	ofRoom := append(slices.Clone(anyRun), YieldHeld, YieldLowQueue, YieldRate, YieldRoomLocked)
	ofSweep := append(slices.Clone(anyRun), YieldQueueFull)
	return []Definition{
		{
			Kind: PurgeHistory, Queue: Default, TaskAction: "purge_history",
			Means: "purges the history of a room up to a depth",
			Ends:  always, Yields: ofRoom,
		},
		{
			Kind: DeleteRoom, Queue: Critical, TaskAction: "shutdown_and_purge_room",
			Means:  "shuts a room down, and may delete all of it",
			Ends:   append(slices.Clone(always), journal.Cancelled),
			Yields: append(slices.Clone(ofRoom), YieldPurgeDelay),
		},
		{
			Kind: RetentionSweep, Queue: Default, TaskAction: "retention_sweep",
			Means: "makes a purge of each room that has expired events",
			Ends:  always, Yields: ofSweep,
			Sweep: []Word[string]{
				{"enqueued", "a purge was made"},
				{"deleting", "the room has a delete"},
				{"purging", "the room has a purge"},
				{"held", "the room is held"},
				{"nothing_expired", "the room has no expired events"},
				{"no_limit", "the room keeps everything"},
				{"other_job", "another retention job covers the room"},
				{"failed", "the decision failed, or the purge was refused"},
			},
		},
		{
			Kind: AbandonedSweep, Queue: Default, TaskAction: "abandoned_sweep",
			Means: "makes a delete of each room that is abandoned",
			Ends:  always, Yields: ofSweep,
			Sweep: []Word[string]{
				{"enqueued", "a delete was made"},
				{"deleting", "the room has a delete"},
				{"held", "the room is held"},
				{"excluded", "the settings exclude the room"},
				{"members", "local users are in the room, are invited or have knocked"},
				{"recent", "the last local user left too recently"},
				{"undated", "the time at which the last local user left is unknown"},
				{"cooling_off", "no earlier sweep has found the room abandoned for long enough"},
				{"capped", "the sweep had made as many deletes as it may"},
				{"failed", "the decision failed, or the delete was refused"},
			},
		},
	}
}

// Yields describes the reasons for which a run gives its job back.
func Yields() []Word[Yield] {
	return []Word[Yield]{
		{YieldSlice, "its time slice is over, and other jobs take their turn"},
		{YieldRoomBusy, "another job of the room is running"},
		{YieldRoomLocked, "the room's lock was not free in time"},
		{YieldHeld, "the room is held; the job continues when the hold is released"},
		{YieldPurgeDelay, "a delete waits between shutdown and purge"},
		{YieldLowQueue, "as many jobs of sweeps are running as may"},
		{YieldQueueFull, "as many jobs of sweeps are open as may"},
		{YieldRate, "the sweeps have deleted as many rows per second as they may"},
		{YieldDrain, "the worker is stopping"},
		{YieldUnreachable, "the database could not be reached"},
		{YieldTimeout, "the run took too long"},
	}
}

// Actions describes what the reconciler does to jobs.
func Actions() []Word[Action] {
	return []Word[Action]{
		{ActionReleased, "taken from a worker that vanished"},
		{ActionMissed, "found without a task in asynq, which is normal while a worker checks whether the job's room is free"},
		{ActionEnqueued, "given a task: after a release, after a minute without one, or because it never had one"},
		{ActionResumed, "put back into the queue after its room's hold was released"},
	}
}

// QueueOf returns the queue of a job's tasks: the one that it names, or that of its
// kind. A sweep is not in the queue of its purges, or it would have to wait until
// they are done before it can make the next ones.
func QueueOf(job journal.Job) journal.Queue {
	if job.Queue != "" {
		return job.Queue
	}
	for _, definition := range Registry() {
		if definition.Kind == job.Kind {
			return definition.Queue
		}
	}
	return Default
}
