package operator

import (
	"net/http"
	"strings"

	"lethe/internal/plan"

	"github.com/labstack/echo/v4"
)

// Root is the path of the API.
const Root = "/_lethe/v1"

// A Route is a method on a path.
type Route struct {
	Method string

	// Path is the path below [Root], in which {name} is a segment.
	Path string

	// Summary says in a line what a request does.
	Summary string

	// Query are the parameters of the query string. Body is a value of the type that the
	// body has, nil for none.
	Query []Parameter
	Body  any

	// Status is the status of an answer, and Answer a value of its type. It is nil for a
	// stream of events.
	Status int
	Answer any

	// Patient says that a request may take minutes.
	Patient bool

	// Serve answers a request of the server admin with the name.
	Serve func(c echo.Context, who string) error
}

// A Parameter is a parameter of a query string.
type Parameter struct {
	Name string

	// Type is string, integer or boolean. Many says that it may be given several times.
	Type string
	Many bool

	// Doc describes it.
	Doc string
}

// Pattern returns the path as echo has it.
func (r Route) Pattern() string {
	return Root + strings.NewReplacer("{", ":", "}", "").Replace(r.Path)
}

// Routes returns all routes of the API.
func (o *Operator) Routes() []Route {
	filter := []Parameter{
		{Name: "state", Type: "string", Many: true, Doc: "Only jobs in one of these states."},
		{Name: "kind", Type: "string", Many: true, Doc: "Only jobs of one of these kinds."},
		{Name: "room", Type: "string", Doc: "Only jobs of the room with this id."},
		{Name: "requester", Type: "string", Doc: "Only jobs that this user has requested."},
		{Name: "since", Type: "integer", Doc: "Only jobs that were requested at this time or later, in Unix milliseconds."},
		{Name: "before", Type: "integer", Doc: "Only jobs that were requested before this time, in Unix milliseconds."},
		{Name: "ended_since", Type: "integer", Doc: "Only jobs that have ended at this time or later, in Unix milliseconds."},
	}
	page := []Parameter{
		{Name: "limit", Type: "integer", Doc: "The most entries of a page, from 1 to 1,000. Defaults to 100."},
		{Name: "from", Type: "string", Doc: "The value of next on the page before."},
	}
	after := []Parameter{{
		Name: "after", Type: "integer",
		Doc: "Only events after the one with this id. Defaults to the header Last-Event-ID, and without it to the newest event.",
	}}
	get, post, put, del := http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	routes := []Route{
		{Method: get, Path: "/openapi.json", Summary: "This description of the API", Status: 200, Answer: map[string]any{}, Serve: o.description},
		{Method: get, Path: "/jobs", Summary: "List jobs, the newest first", Query: append(filter, page...), Status: 200, Answer: Jobs{}, Serve: o.jobs},
		{Method: post, Path: "/jobs/bulk", Summary: "Do a verb to all jobs that match a filter", Body: BulkRequest{}, Status: 200, Answer: Outcomes{}, Serve: o.bulk},
		{Method: get, Path: "/jobs/{job_id}", Summary: "Show a job with its log", Status: 200, Answer: Job{}, Serve: o.job},
		{Method: get, Path: "/jobs/{job_id}/events", Summary: "Follow a job until it has ended", Query: after, Status: 200, Patient: true, Serve: o.eventsOfJob},
		{Method: get, Path: "/events", Summary: "Follow all jobs", Query: after, Status: 200, Patient: true, Serve: o.events},
		{Method: get, Path: "/pauses", Summary: "List pauses", Status: 200, Answer: Pauses{}, Serve: o.pauses},
		{Method: put, Path: "/pauses/{scope}/{value}", Summary: "Pause a job, a room, a kind or all jobs", Body: PauseRequest{}, Status: 200, Answer: Pause{}, Serve: o.setPause},
		{Method: del, Path: "/pauses/{scope}/{value}", Summary: "End a pause", Status: 200, Answer: Pause{}, Serve: o.liftPause},
		{Method: post, Path: "/plans", Summary: "Say what a purge, a delete or a sweep would do", Body: PlanRequest{}, Status: 200, Answer: plan.Plan{}, Patient: true, Serve: o.plan},
		{Method: post, Path: "/purges", Summary: "Accept a purge of a room's history", Body: PurgeRequest{}, Status: 202, Answer: Accepted{}, Serve: o.purge},
		{Method: post, Path: "/deletes", Summary: "Accept the shutdown and the delete of a room", Body: DeleteRequest{}, Status: 202, Answer: Accepted{}, Serve: o.delete},
		{Method: post, Path: "/sweeps", Summary: "Accept a sweep", Body: SweepRequest{}, Status: 202, Answer: Accepted{}, Serve: o.sweep},
		{Method: get, Path: "/rooms", Summary: "List rooms, the largest first, or search for rooms", Query: append([]Parameter{{
			Name: "search", Type: "string", Doc: "Only rooms whose name or alias contains this text, in any letter case, or whose id does, those with the most joined members first. Defaults to all rooms, the largest first.",
		}}, page...), Status: 200, Answer: Rooms{}, Patient: true, Serve: o.rooms},
		{Method: get, Path: "/rooms/{room_id}", Summary: "Show what a room takes in the database, its members and its events by month", Status: 200, Answer: Room{}, Patient: true, Serve: o.room},
		{Method: put, Path: "/blocks/{room_id}", Summary: "Block a room, or end its block", Body: BlockRequest{}, Status: 200, Answer: RoomBlock{}, Serve: o.setBlock},
		{Method: get, Path: "/brake", Summary: "Show what slows jobs down", Status: 200, Answer: Brake{}, Serve: o.brake},
		{Method: put, Path: "/brake/{signal}", Summary: "Set the limits of a signal at which jobs slow down and wait", Body: BrakeRequest{}, Status: 200, Answer: BrakeSignal{}, Serve: o.setBrake},
		{Method: del, Path: "/brake/{signal}", Summary: "Give a signal its default limits again", Status: 200, Answer: BrakeSignal{}, Serve: o.resetBrake},
		{Method: get, Path: "/fleet", Summary: "Show the fleet's workers and limits", Status: 200, Answer: Fleet{}, Serve: o.fleet},
		{Method: put, Path: "/fleet/{kind}", Summary: "Set the fleet's limits for a kind of job", Body: LimitRequest{}, Status: 200, Answer: Limit{}, Serve: o.setLimit},
		{Method: get, Path: "/audit", Summary: "List who has done what, the newest first", Query: append([]Parameter{
			{Name: "who", Type: "string", Doc: "Only what this user has done."},
			{Name: "action", Type: "string", Many: true, Doc: "Only these actions."},
			{Name: "way", Type: "string", Many: true, Doc: "Only what came by one of these ways: api, cli or console."},
			{Name: "room", Type: "string", Doc: "Only what was done to the room with this id, or to its jobs."},
			{Name: "job", Type: "string", Doc: "Only what was done to the job with this id."},
			{Name: "since", Type: "integer", Doc: "Only what was done at this time or later, in Unix milliseconds."},
			{Name: "before", Type: "integer", Doc: "Only what was done before this time, in Unix milliseconds."},
		}, page...), Status: 200, Answer: Audit{}, Serve: o.auditList},
		{Method: get, Path: "/schedules", Summary: "List the schedules of sweeps, with the last sweep of each", Status: 200, Answer: Schedules{}, Serve: o.scheduleList},
		{Method: post, Path: "/schedules/{name}/run", Summary: "Accept a sweep of a schedule now", Body: RunRequest{}, Status: 202, Answer: Accepted{}, Serve: o.runSchedule},
		{Method: get, Path: "/holds", Summary: "List held rooms", Query: []Parameter{{
			Name: "released", Type: "boolean", Doc: "Also list holds that were lifted. Defaults to false.",
		}}, Status: 200, Answer: Holds{}, Serve: o.holdList},
		{Method: get, Path: "/holds/{room_id}", Summary: "Show the hold of a room", Status: 200, Answer: Hold{}, Serve: o.hold},
		{Method: put, Path: "/holds/{room_id}", Summary: "Make sure that nothing is deleted from a room", Body: HoldRequest{}, Status: 200, Answer: Hold{}, Serve: o.setHold},
		{Method: del, Path: "/holds/{room_id}", Summary: "Allow deletes from a room again", Status: 200, Answer: Hold{}, Serve: o.liftHold},
	}
	for _, verb := range verbs {
		routes = append(routes, Route{
			Method: post, Path: "/jobs/{job_id}/" + string(verb.verb), Summary: verb.summary, Body: VerbRequest{}, Status: 200, Answer: Outcome{},
			Serve: func(c echo.Context, who string) error { return o.do(c, who, verb.verb) },
		})
	}
	return routes
}
