package operator

import (
	"encoding/json"

	"lethe/internal/store/footprint"
	"lethe/internal/store/leftover"
	"lethe/internal/store/vacuum"
	"lethe/internal/sweep"
)

// A Job is a job as the API shows it. Times are in Unix milliseconds, and 0 or absent if
// they have not come.
type Job struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Room      string `json:"room_id"`
	State     string `json:"state"`
	Queue     string `json:"queue"`
	Requester string `json:"requester"`

	// Phase is the part of the work that the job is in, "" before the first batch.
	Phase string `json:"phase"`

	// Done is how many events the job has gone through, and of a sweep how many rooms. Total
	// is how many there are, never less than Done, and nil if that is unknown: it is counted
	// when the job begins. Events is how many events the job has deleted.
	Done   int64  `json:"done"`
	Total  *int64 `json:"total"`
	Events int64  `json:"events"`

	// Rate is the events per second since the job's start, and ETA the seconds that are
	// left at this rate, nil if that is unknown.
	Rate float64  `json:"events_per_second"`
	ETA  *float64 `json:"eta_seconds"`

	// Worker names the process that runs the job, "" unless one does.
	Worker string `json:"worker"`

	Batches  int64 `json:"batches"`
	Attempts int   `json:"attempts"`

	// WaitsFor is what the job waits for, in words, "" if it works or has ended. During its
	// grace it also names the pause and the hold that would stop the job then.
	WaitsFor   string `json:"waits_for"`
	WaitsSince int64  `json:"waits_since_ts,omitempty"`

	// Deleted is how many rows the job has deleted, by table.
	Deleted map[string]int64 `json:"deleted"`

	// LastFailure is the last error that a batch met, and Error the one that has ended the
	// job. They are "" if there was none.
	LastFailure string `json:"last_failure"`
	Error       string `json:"error"`

	// CompleteBelow is the depth to which a purge has deleted what it must, nil before the
	// first batch and for other kinds.
	CompleteBelow *int64 `json:"complete_below"`

	// AbsorbedBy is the id of the purge that does the work of this one, "" if it does so
	// itself.
	AbsorbedBy string `json:"absorbed_by,omitempty"`

	Created int64 `json:"created_ts"`
	Started int64 `json:"started_ts,omitempty"`
	Updated int64 `json:"updated_ts"`
	Ended   int64 `json:"ended_ts,omitempty"`

	// Due is the end of the grace of a job that is scheduled.
	Due int64 `json:"due_ts,omitempty"`

	// Request is what the job was requested to do, and Result what a delete or a sweep has
	// come to so far. Vacuum is what is done, after the job's end, about the space that it
	// has left. Samples are how far the job had come at the ends of some of its batches, at
	// most 200. Log is what has happened to the job, the oldest first. Lists and streams of
	// jobs are without these five.
	Request *JobRequest   `json:"request,omitempty"`
	Result  *JobResult    `json:"result,omitempty"`
	Vacuum  *vacuum.Phase `json:"vacuum,omitempty"`
	Samples []Sample      `json:"samples,omitempty"`
	Log     []Event       `json:"log,omitempty"`
}

// A Sample is how far a job had come at the end of a batch. Done is that of [Job].
type Sample struct {
	At   int64 `json:"at_ts"`
	Done int64 `json:"done"`
}

// A JobRequest is what a job was requested to do. It only has what jobs of its kind have.
type JobRequest struct {
	// Reason is why, in the words of the requester.
	Reason string `json:"reason,omitempty"`

	// BeforeEvent or BeforeTime is where a purge ends, as it was requested: an event, or a
	// time in Unix milliseconds. Both are absent from the purge of a sweep.
	BeforeEvent string `json:"before_event_id,omitempty"`
	BeforeTime  *int64 `json:"before_ts,omitempty"`

	// BeforeDepth is the depth at which the purge ends: it deletes below it.
	BeforeDepth *int64 `json:"before_depth,omitempty"`

	// DeleteLocal says whether events of local users are purged too.
	DeleteLocal *bool `json:"delete_local_events,omitempty"`

	// RetentionJob is the retention job whose sweep has made the purge, and ExpiredBefore
	// the moment, in Unix milliseconds, before which its events had expired.
	RetentionJob  string `json:"retention_job,omitempty"`
	ExpiredBefore int64  `json:"expired_before_ts,omitempty"`

	// Block, Purge and ForcePurge are those of a delete.
	Block      *bool `json:"block,omitempty"`
	Purge      *bool `json:"purge,omitempty"`
	ForcePurge *bool `json:"force_purge,omitempty"`

	// NewRoomUser makes the room that replaces a deleted one, RoomName is its name, and
	// Message the text in it. Without NewRoomUser there is no such room.
	NewRoomUser string `json:"new_room_user_id,omitempty"`
	RoomName    string `json:"room_name,omitempty"`
	Message     string `json:"message,omitempty"`

	// PurgeDelay is the pause between a delete's shutdown and its purge, in seconds.
	PurgeDelay float64 `json:"purge_delay_seconds,omitempty"`

	// Sweep is the id of the sweep that has made a delete because the room was abandoned.
	Sweep string `json:"sweep,omitempty"`

	// Name is the name of a sweep's job in the settings.
	Name string `json:"name,omitempty"`

	// Plan is the digest of the plan that the job is bound to, and Tolerance by how many
	// events the room may have drifted from it.
	Plan      string `json:"plan,omitempty"`
	Tolerance int64  `json:"tolerance,omitempty"`
}

// A JobResult is what a delete or a sweep has come to so far. It only has what jobs of its
// kind have.
type JobResult struct {
	// KickedUsers are the users whom the shutdown has removed from the room, and
	// FailedToKickUsers those whom it could not remove. LocalAliases are the room's aliases
	// that were moved to the new room, or deleted.
	KickedUsers       []string `json:"kicked_users,omitzero"`
	FailedToKickUsers []string `json:"failed_to_kick_users,omitzero"`
	LocalAliases      []string `json:"local_aliases,omitzero"`

	// NewRoom is the id of the room that replaces the deleted one. It is absent if the
	// request asked for no such room.
	NewRoom *string `json:"new_room_id,omitempty"`

	// RemoteServersNotTold are the other servers in the room that do not learn that our
	// users have left.
	RemoteServersNotTold []string `json:"remote_servers_not_told,omitempty"`

	// Rooms is how many rooms a sweep has decided, Enqueued how many of them have got a job,
	// and Skipped how many have not, by reason.
	Rooms    *int64           `json:"rooms,omitempty"`
	Enqueued *int64           `json:"enqueued,omitempty"`
	Skipped  map[string]int64 `json:"skipped,omitempty"`

	// Failures are the first rooms that could not be decided, or whose job was refused.
	Failures []sweep.Failure `json:"failures,omitempty"`

	// Report is what a check has found of the deleted rooms, nil before.
	*leftover.Report
}

// An Event is a change of a job's state, or a verb.
type Event struct {
	ID int64 `json:"id"`
	At int64 `json:"at_ts"`

	// Event is the new state of the job, or the verb.
	Event string `json:"event"`

	// Who and Reason are of a verb, "" otherwise.
	Who    string `json:"who,omitempty"`
	Reason string `json:"reason,omitempty"`

	// Detail is an object with more about the event.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// Jobs is a page of a list of jobs, the newest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`

	// Next is the value of from for the next page, nil on the last one.
	Next *string `json:"next"`
}

// A VerbRequest is the body of a verb on a job.
type VerbRequest struct {
	// Reason is why, for the job's log.
	Reason string `json:"reason,omitempty"`

	// Until ends a pause, in Unix milliseconds. Defaults to 0, a resume.
	Until int64 `json:"until_ts,omitempty"`

	// Queue is critical, default or low, for the verb priority.
	Queue string `json:"queue,omitempty"`

	// DryRun only says what the verb would do. Defaults to false.
	DryRun bool `json:"dry_run,omitempty"`
}

// A BulkRequest is a verb on all jobs that match a filter.
type BulkRequest struct {
	Verb string `json:"verb"`
	VerbRequest
	Filter Filter `json:"filter"`

	// Limit bounds the jobs. Defaults to 1,000, which is the most.
	Limit int `json:"limit,omitempty"`
}

// A Filter selects jobs. An empty field matches all jobs.
type Filter struct {
	States    []string `json:"state,omitempty"`
	Kinds     []string `json:"kind,omitempty"`
	Room      string   `json:"room,omitempty"`
	Requester string   `json:"requester,omitempty"`

	// Since and Before bound the time of the job's request, in Unix milliseconds.
	Since  int64 `json:"since_ts,omitempty"`
	Before int64 `json:"before_ts,omitempty"`

	// EndedSince selects jobs that have ended at this time or later, in Unix milliseconds.
	EndedSince int64 `json:"ended_since_ts,omitempty"`
}

// An Outcome is what a verb has done to a job.
type Outcome struct {
	Job Job `json:"job"`

	// Done says that the verb was done, or would be. Refusal is why not, "" if it was.
	Done    bool   `json:"done"`
	Refusal string `json:"refusal"`
}

// Outcomes are what a verb has done to all jobs that match.
type Outcomes struct {
	Outcomes []Outcome `json:"outcomes"`

	// Matched is how many jobs match, and Done to how many of them the verb was done.
	Matched int `json:"matched"`
	Done    int `json:"done"`
}

// A Pause keeps jobs from running.
type Pause struct {
	// Scope is job, room, kind or all, and Value which one.
	Scope string `json:"scope"`
	Value string `json:"value"`

	Who    string `json:"who"`
	Reason string `json:"reason"`
	Set    int64  `json:"set_ts"`

	// Until is when the pause ends by itself, 0 for never.
	Until int64 `json:"until_ts,omitempty"`
}

// Pauses are all pauses.
type Pauses struct {
	Pauses []Pause `json:"pauses"`
}

// A PlanRequest asks what a purge, a delete or a sweep would do.
type PlanRequest struct {
	Kind string `json:"kind"`

	// Room is the room's id. A sweep has none.
	Room string `json:"room_id,omitempty"`

	// BeforeEvent or BeforeTime is where a purge ends: the first event that stays, or a
	// time in Unix milliseconds.
	BeforeEvent string `json:"before_event_id,omitempty"`
	BeforeTime  *int64 `json:"before_ts,omitempty"`

	// DeleteLocal includes events of local users. Defaults to false.
	DeleteLocal bool `json:"delete_local_events,omitempty"`

	// Name is the name of a sweep's retention job. Defaults to "", the only one.
	Name string `json:"name,omitempty"`

	// Exact counts the rows of every table, however long that takes. Defaults to false.
	Exact bool `json:"exact,omitempty"`
}

// A PurgeRequest asks for a purge of a room's history.
type PurgeRequest struct {
	Room        string `json:"room_id"`
	BeforeEvent string `json:"before_event_id,omitempty"`
	BeforeTime  *int64 `json:"before_ts,omitempty"`
	DeleteLocal bool   `json:"delete_local_events,omitempty"`
	Acceptance
}

// A DeleteRequest asks for the shutdown of a room, and its delete.
type DeleteRequest struct {
	Room string `json:"room_id"`

	// Block keeps local users from joining again. Defaults to false.
	Block bool `json:"block,omitempty"`

	// Purge deletes the room after the shutdown. Defaults to true.
	Purge *bool `json:"purge,omitempty"`

	// ForcePurge does so even if users are still joined. Defaults to false.
	ForcePurge bool `json:"force_purge,omitempty"`

	Message     string `json:"message,omitempty"`
	NewRoomUser string `json:"new_room_user_id,omitempty"`
	RoomName    string `json:"room_name,omitempty"`
	Acceptance
}

// A SweepRequest asks for a sweep now.
type SweepRequest struct {
	// Kind is retention_sweep or abandoned_sweep.
	Kind string `json:"kind"`

	// Name is the name of the retention job in the settings. Defaults to "", the only one.
	Name string `json:"name,omitempty"`
	Acceptance
}

// Acceptance is how a job is accepted.
type Acceptance struct {
	// Grace is a duration such as "24h" in which nothing is done, and the job can be
	// cancelled. Defaults to "", the setting grace.
	Grace string `json:"grace,omitempty"`

	// Plan is the digest of a plan. The job is refused if the room has drifted from it by
	// more than Tolerance events, which defaults to 0.
	Plan      string `json:"plan,omitempty"`
	Tolerance int64  `json:"tolerance,omitempty"`

	// Reason is why, for the job's log.
	Reason string `json:"reason,omitempty"`
}

// Accepted is the answer to a request for a job.
type Accepted struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Due   int64  `json:"due_ts,omitempty"`

	// Warnings are sentences for the requester.
	Warnings []string `json:"warnings,omitempty"`
}

// A Limit bounds what the fleet does for a kind of job. A nil limit is that of the
// settings.
type Limit struct {
	Kind          string `json:"kind"`
	RowsPerSecond *int   `json:"rows_per_second"`
	Jobs          *int   `json:"jobs"`
	Who           string `json:"who,omitempty"`
	Set           int64  `json:"set_ts,omitempty"`
}

// Fleet is the state of the fleet.
type Fleet struct {
	Limits []Limit `json:"limits"`

	// Workers are the processes that take jobs. It is null if that is not known, which is so
	// without Redis.
	Workers *[]FleetWorker `json:"workers"`

	// Schedulers are the schedulers that are alive. All are equal. It is null if that is not
	// known, which is so without Redis.
	Schedulers *[]FleetScheduler `json:"schedulers"`
}

// A FleetScheduler is a scheduler that is alive.
type FleetScheduler struct {
	Name    string `json:"name"`
	Started int64  `json:"started_ts"`
}

// A Schedule is a job of retention that schedulers sweep at its ticks.
type Schedule struct {
	Name string `json:"name"`

	// Kind is the kind of its sweeps, "" if that is unknown.
	Kind string `json:"kind"`

	// When is the interval or cron, as the settings of the scheduler write it. It is "" if
	// no scheduler that is alive has the schedule.
	When string `json:"when"`

	// Configured says that the settings of the api have the schedule, and Scheduled that
	// those of a scheduler that is alive do. With neither, it has left the settings.
	Configured bool `json:"configured"`
	Scheduled  bool `json:"scheduled"`

	// LastTick is the last tick that was decided, and NextTick the next one. They are absent
	// before a scheduler has seen the schedule.
	LastTick int64 `json:"last_tick_ts,omitempty"`
	NextTick int64 `json:"next_tick_ts,omitempty"`

	// Outcome is the decision about the last tick: accepted, skipped because a sweep had not
	// ended, or noted because the schedule was new.
	Outcome string `json:"outcome,omitempty"`

	// SkippedTicks is how many ticks were skipped in all.
	SkippedTicks int64 `json:"skipped_ticks"`

	// LastSweep is the newest sweep with its result, nil before the first.
	LastSweep *Job `json:"last_sweep"`
}

// Schedules are all schedules, by name.
type Schedules struct {
	Schedules []Schedule `json:"schedules"`
}

// A RunRequest asks for a sweep of a schedule now.
type RunRequest struct {
	// Grace is a duration such as "24h" in which nothing is done, and the sweep can be
	// cancelled. Defaults to "", the setting grace.
	Grace string `json:"grace,omitempty"`

	// Reason is why, for the job's log.
	Reason string `json:"reason,omitempty"`
}

// Brake is what slows jobs down.
type Brake struct {
	// Signals are the figures that workers look at, with their limits.
	Signals []BrakeSignal `json:"signals"`

	// Workers are what the workers' brakes do. It is null if that is not known, which is so
	// without Redis.
	Workers *[]BrakeWorker `json:"workers"`
}

// A BrakeSignal is a figure that workers look at. A null limit does not limit. From
// the soft limit on jobs are slower, and at the hard one they wait.
type BrakeSignal struct {
	Signal string   `json:"signal"`
	Soft   *float64 `json:"soft"`
	Hard   *float64 `json:"hard"`

	// Default says that the limits are the default ones. Who has set others, and when.
	Default bool   `json:"default"`
	Who     string `json:"who,omitempty"`
	Set     int64  `json:"set_ts,omitempty"`

	// Value is the worst value that a worker has seen last, null if it is unknown. Says is
	// the same in words.
	Value *float64 `json:"value"`
	Says  string   `json:"says,omitempty"`
}

// A BrakeWorker is what the brake of a worker does.
type BrakeWorker struct {
	Name string `json:"name"`

	// Share is for which share of their time jobs work. With 0 they wait.
	Share float64 `json:"share"`

	// Reason is why it is less than 1.
	Reason string `json:"reason,omitempty"`

	// At is when the worker looked at the server.
	At int64 `json:"at_ts"`
}

// A BrakeRequest sets the limits of a signal. A null limit does not limit.
type BrakeRequest struct {
	Soft *float64 `json:"soft,omitempty"`
	Hard *float64 `json:"hard,omitempty"`
}

// A FleetWorker is a process that takes jobs.
type FleetWorker struct {
	Name        string `json:"name"`
	Started     int64  `json:"started_ts"`
	Concurrency int    `json:"concurrency"`
	Running     int    `json:"running"`
}

// A PauseRequest is the body of a pause of a job, a room, a kind or all jobs.
type PauseRequest struct {
	// Reason is why, for those who wonder what a job waits for. It must not be empty.
	Reason string `json:"reason"`

	// Until ends the pause, in Unix milliseconds. Defaults to 0, when it is lifted.
	Until int64 `json:"until_ts,omitempty"`
}

// A LimitRequest sets the fleet's limits for a kind of job. A nil limit is that of the
// settings.
type LimitRequest struct {
	// RowsPerSecond bounds the events that all jobs of the kind delete in a second.
	RowsPerSecond *int `json:"rows_per_second,omitempty"`

	// Jobs bounds how many jobs of the kind run at once.
	Jobs *int `json:"jobs,omitempty"`
}

// A Hold keeps a room from being deleted from. Times are in Unix milliseconds.
type Hold struct {
	Room       string `json:"room_id"`
	Reason     string `json:"reason"`
	PlacedBy   string `json:"placed_by"`
	PlacedAt   int64  `json:"placed_at"`
	ReleasedBy string `json:"released_by,omitempty"`
	ReleasedAt int64  `json:"released_at,omitempty"`
}

// Holds are the holds of all rooms, the latest first.
type Holds struct {
	Holds []Hold `json:"holds"`
}

// A HoldRequest is the body of a request for a hold.
type HoldRequest struct {
	// Reason is why, from 1 to 1,000 characters.
	Reason string `json:"reason"`
}

// An AuditEntry is what a user has done.
type AuditEntry struct {
	ID  int64  `json:"id"`
	At  int64  `json:"at_ts"`
	Who string `json:"who"`

	// Way is api, cli or console. It is "" if that was not recorded.
	Way string `json:"way"`

	// Action is a verb on a job, or request, hold, lift_hold, set_pause, lift_pause,
	// set_limits, set_brake, reset_brake, block or unblock.
	Action string `json:"action"`

	// Subject is a kind of jobs, a signal of the brake, or what a pause is of, "" if the
	// room says it.
	Subject string `json:"subject,omitempty"`

	Room string `json:"room_id,omitempty"`

	// Job is the id of the job, which may have been deleted since.
	Job    string `json:"job_id,omitempty"`
	Reason string `json:"reason,omitempty"`

	// Detail is an object with what was set. Its field before has what that replaces.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// Audit is a page of what users have done, the newest first.
type Audit struct {
	Entries []AuditEntry `json:"entries"`

	// Next is the value of from for the next page, nil on the last one.
	Next *string `json:"next"`
}

// A JobEvent is the data of a server-sent event with the name job. The data of an event
// with the name progress is a [Job].
type JobEvent struct {
	Event Event `json:"event"`

	// Job is the job at the time of sending, which may be later than the event.
	Job Job `json:"job"`
}

// A Room is what the database has of a room.
type Room struct {
	footprint.Room

	// Name is the room's name and Alias its canonical alias, "" if it has none.
	Name  string `json:"name"`
	Alias string `json:"canonical_alias"`

	// BlockedBy is the user who has blocked the room, "" if it is not blocked.
	BlockedBy string `json:"blocked_by"`

	// Members are the room's members, null if there are so many that the count would take
	// longer than 2 s.
	Members *RoomMembers `json:"members"`

	// Months are the events by month of the last five years, by the clocks of the senders.
	// Months without events are left out. It is null if there are so many events that the
	// count would take longer than 2 s.
	Months *[]Month `json:"months"`
}

// RoomMembers are the members of a room.
type RoomMembers struct {
	// Memberships are those that any user has, by name.
	Memberships []Membership `json:"memberships"`

	// Joined are the first 50 joined users of this server.
	Joined []string `json:"joined_local_users"`
}

// A Membership is how many users have a membership in a room, such as join.
type Membership struct {
	Membership string `json:"membership"`

	// Local are users of this server, and Remote those of others.
	Local  int64 `json:"local"`
	Remote int64 `json:"remote"`
}

// A Month is how many events of a room were sent in a month of UTC.
type Month struct {
	Begin  int64 `json:"begin_ts"`
	Events int64 `json:"events"`
}

// A BlockRequest blocks a room, or ends its block.
type BlockRequest struct {
	// Block keeps local users from joining the room. It has no default.
	Block *bool `json:"block"`
}

// A RoomBlock says whether a room is blocked.
type RoomBlock struct {
	Room  string `json:"room_id"`
	Block bool   `json:"block"`
}

// Rooms is a page of a list of rooms, the largest first.
type Rooms struct {
	Rooms []footprint.Size `json:"rooms"`

	// Next is the value of from for the next page, nil on the last one.
	Next *string `json:"next"`
}
