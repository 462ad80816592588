package plan

import (
	"fmt"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/footprint"
)

// secondsBelow is the time in Unix milliseconds below which a time looks like seconds:
// the year 1973. Matrix is younger, and a time in seconds is below it until 5138.
const secondsBelow = 100_000_000_000

func (plan *Plan) add(format string, args ...any) {
	plan.Warnings = append(plan.Warnings, fmt.Sprintf(format, args...))
}

// warn adds the warnings that concern every job of a room. Reasons and names come from
// others, so they are quoted and cut.
func (plan *Plan) warn(facts footprint.Facts) {
	if facts.Hold != nil {
		plan.add("The room is held: %.200q. Requests are refused, and jobs wait, until the hold is lifted.", *facts.Hold)
	}
	for _, kind := range facts.Jobs {
		plan.add("The room has a job of the kind %s that has not ended. It may change what is left for this one.", kind)
	}
	if facts.HomeserverTask != "" {
		plan.add("Synapse has a task of its own for the room, %.50q. The job waits until it has ended.", facts.HomeserverTask)
	}
	if facts.Partial {
		plan.add("The room's state is not complete: Synapse is still fetching it. A purge fails until it has ended.")
	}
	if facts.Encrypted {
		plan.add("The room is encrypted. Media in its events cannot be seen, so the number of media is too low.")
	}
	if facts.Upgraded {
		plan.add("The room was upgraded: its users may still read the history through the room that replaces it.")
	}
	if facts.ServersCount > 0 {
		plan.add("The room has users of other servers, which keep their copies. The number of these servers: %d.", facts.ServersCount)
	}
}

// warnOfPurge adds the warnings that concern where a purge ends.
func (plan *Plan) warnOfPurge(request Request, token matrix.Token, events footprint.Events, facts footprint.Facts) {
	if ts := request.BeforeTime; ts != nil && request.BeforeEvent == "" {
		switch {
		case *ts > -secondsBelow && *ts < secondsBelow:
			plan.add("The time %d is in the year %d. It looks like seconds, and must be in milliseconds.", *ts, time.UnixMilli(*ts).UTC().Year())
		case *ts > facts.Now:
			plan.add("The time %d is in the future. The purge keeps only what is newer than the room's newest event.", *ts)
		}
	}
	if events.Newest && events.Deleted > 0 {
		plan.add("Everything goes but the newest events of the room and its state.")
	}
	if facts.Highest != nil && token.Topological > *facts.Highest {
		plan.add("The purge will fail: its end lies above the room's newest events.")
	}
	if events.Deleted == 0 {
		plan.add("The purge finds nothing to delete.")
	}
}

// warnOfDelete adds the warnings that concern a room's delete.
func (plan *Plan) warnOfDelete(facts footprint.Facts) {
	if facts.UsersCount > 0 {
		plan.add("The delete removes the users of this server first. Their number: %d. The rows of their departure are not among the figures by table.", facts.UsersCount)
	}
	if !facts.Exists {
		plan.add("The room has no row of its own any more: the delete removes what is left of it.")
	}
	plan.add("Everything goes. The room's history cannot be fetched again unless another server has it.")
}
