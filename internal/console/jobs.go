package console

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lethe/internal/console/plot"
	"lethe/internal/jobs"
	"lethe/internal/operator"
	"lethe/internal/output"
	"lethe/internal/store/journal"
)

// listedJobs is the number of jobs of a page of their list.
const listedJobs = 50

// states are the states by which jobs can be listed, as an operator looks for them.
var states = append([]string{string(journal.Running)}, append(slices.Clone(waiting),
	string(journal.Complete), string(journal.Failed), string(journal.Cancelled))...)

// kinds are the kinds of jobs.
func kinds() (names []string) {
	for _, definition := range jobs.Registry() {
		names = append(names, string(definition.Kind))
	}
	return names
}

// A jobsPage is a page of the list of jobs.
type jobsPage struct {
	frame
	Jobs []operator.Job

	// States and Kinds can be chosen, and the others are what was.
	States, Kinds                []string
	State, Kind, Room, Requester string

	// First is the query of the first page, "" on it, and Next that of the next page, "" on
	// the last.
	First, Next string
}

func (c *Console) jobsPage(v *visit) error {
	query := v.r.URL.Query()
	page := jobsPage{
		frame: v.frame("Jobs").in("jobs"), States: states, Kinds: kinds(),
		State: query.Get("state"), Kind: query.Get("kind"),
		Room: strings.TrimSpace(query.Get("room")), Requester: strings.TrimSpace(query.Get("requester")),
	}
	asked := url.Values{"limit": {strconv.Itoa(listedJobs)}}
	chosen := url.Values{}
	for name, value := range map[string]string{"state": page.State, "kind": page.Kind, "room": page.Room, "requester": page.Requester} {
		if value != "" {
			asked.Set(name, value)
			chosen.Set(name, value)
		}
	}
	if from := query.Get("from"); from != "" {
		asked.Set("from", from)
		page.First = "?" + chosen.Encode()
	}
	var list operator.Jobs
	if err := c.get(v.r.Context(), v.session.User, "/jobs", asked, &list); err != nil {
		return err
	}
	page.Jobs = list.Jobs
	if list.Next != nil {
		chosen.Set("from", *list.Next)
		page.Next = "?" + chosen.Encode()
	}
	return v.render(http.StatusOK, "jobs", page)
}

const (
	// shownEvents is the most events of a job's log that its page shows, the latest ones.
	shownEvents = 50

	// shownNames is the most users, aliases and servers of a result that it shows.
	shownNames = 50
)

// A jobView is the part of a job's page that changes.
type jobView struct {
	Now time.Time
	Job operator.Job

	// Rows are how many rows were deleted, the table with the most first.
	Rows []tableRows

	// Pace is how fast it went between batches.
	Pace plot.Rate

	// Spans are the job's states over its time, and Keys how long it was in each of them.
	Spans []plot.Span
	Keys  []spanKey

	// Log are the latest events, the newest first. Earlier is how many are not shown.
	Log     []logLine
	Earlier int

	// Facts are what was requested, and Results what the job has come to.
	Facts, Results []fact
}

// A logLine is an event with its details in words.
type logLine struct {
	operator.Event
	Words string
}

// A spanKey is a state with all the time in it, in words.
type spanKey struct{ What, Time string }

// keysOf returns the states of spans, in the order in which they came first.
func keysOf(spans []plot.Span) (keys []spanKey) {
	times := map[string]time.Duration{}
	var order []string
	for _, span := range spans {
		if _, ok := times[span.What]; !ok {
			order = append(order, span.What)
		}
		times[span.What] += span.To.Sub(span.From)
	}
	for _, what := range order {
		keys = append(keys, spanKey{what, lasting(times[what])})
	}
	return keys
}

// tableRows is a number of rows of a table.
type tableRows struct {
	Table string
	Rows  int64
}

// A fact is a name with its value.
type fact struct{ Name, Value string }

// A jobPage is the page of a job.
type jobPage struct {
	frame
	Live jobView

	// Verbs are what can be done to the job, empty for a user who may change nothing.
	Verbs []offer

	// Said is a sentence about what the user has just done, "" for nothing.
	Said string
}

func (c *Console) jobPage(v *visit) error {
	ctx, who := v.r.Context(), v.session.User
	shown, err := c.readJob(ctx, who, v.r.PathValue("job"))
	if err != nil {
		return err
	}
	page := jobPage{frame: v.frame("Job " + shown.Job.ID).in("jobs"), Live: shown}
	done := v.r.URL.Query().Get("done")
	if verb, ok := verbOf(done); ok {
		page.Said = verb.said
	} else if done == "accept" {
		page.Said = "The job is accepted."
	}
	if !v.reads {
		if page.Verbs, err = c.offers(ctx, who, shown.Job); err != nil {
			return err
		}
	}
	return v.render(http.StatusOK, "job", page)
}

func (c *Console) jobLive(v *visit) look {
	id := v.r.PathValue("job")
	return func(ctx context.Context) ([]byte, bool, error) {
		shown, err := c.readJob(ctx, v.session.User, id)
		if err != nil {
			return nil, false, err
		}
		part, err := execute("job", "live", shown)
		return part, shown.Job.Ended > 0, err
	}
}

// readJob reads what the page of a job shows.
func (c *Console) readJob(ctx context.Context, who, id string) (jobView, error) {
	shown := jobView{Now: time.Now()}
	if err := c.api.Call(ctx, who, operator.Call{
		Method: http.MethodGet, Path: "/jobs/{job_id}", Parameters: map[string]string{"job_id": id},
	}, &shown.Job); err != nil {
		return shown, err
	}
	job := shown.Job
	shown.Rows = rowsOf(job.Deleted)
	shown.Spans = spansOf(job, shown.Now)
	shown.Keys = keysOf(shown.Spans)
	if job.Started > 0 {
		var points []plot.Point
		for _, sample := range job.Samples {
			points = append(points, plot.Point{At: time.UnixMilli(sample.At), Done: sample.Done})
		}
		shown.Pace = plot.PaceOf(time.UnixMilli(job.Started), points)
	}
	shown.Earlier = max(0, len(job.Log)-shownEvents)
	for _, event := range slices.Backward(job.Log[shown.Earlier:]) {
		shown.Log = append(shown.Log, logLine{event, wordsOf(event.Detail)})
	}
	shown.Facts, shown.Results = factsOf(job.Request), factsOf(job.Result)
	return shown, nil
}

// rowsOf returns the numbers that are not 0, the largest first.
func rowsOf(numbers map[string]int64) (rows []tableRows) {
	for table, n := range numbers {
		if n != 0 {
			rows = append(rows, tableRows{table, n})
		}
	}
	slices.SortFunc(rows, func(a, b tableRows) int {
		return cmp.Or(cmp.Compare(b.Rows, a.Rows), strings.Compare(a.Table, b.Table))
	})
	return rows
}

// spansOf returns the states of a job over its time, as its log has them.
func spansOf(job operator.Job, now time.Time) []plot.Span {
	var changes []plot.Change
	for _, event := range job.Log {
		if slices.Contains(states, event.Event) {
			changes = append(changes, plot.Change{At: time.UnixMilli(event.At), What: event.Event})
		}
	}
	end := now
	if job.Ended > 0 {
		end = time.UnixMilli(job.Ended)
		// The last state lasts for ever, and is not part of the job's time.
		for len(changes) > 0 && !changes[len(changes)-1].At.Before(end) {
			changes = changes[:len(changes)-1]
		}
	}
	return plot.SpansOf(changes, end)
}

// wordsOf returns what an event's detail says, without what is null.
func wordsOf(detail json.RawMessage) string {
	var parts []string
	for _, fact := range factsOf(detail) {
		if fact.Value != "" {
			parts = append(parts, fact.Name+": "+fact.Value)
		}
	}
	return strings.Join(parts, ", ")
}

// factsOf returns the fields of a request or a result as its JSON has them, so that none is
// forgotten here.
func factsOf(of any) (facts []fact) {
	text, err := json.Marshal(of)
	var object map[string]json.RawMessage
	if err != nil || json.Unmarshal(text, &object) != nil {
		return nil
	}
	for name, value := range object {
		facts = append(facts, fact{word(strings.TrimSuffix(strings.TrimSuffix(name, "_ts"), "_id")), valueOf(name, value)})
	}
	slices.SortFunc(facts, func(a, b fact) int { return strings.Compare(a.Name, b.Name) })
	return facts
}

// valueOf returns a JSON value as people read it.
func valueOf(name string, value json.RawMessage) string {
	var text string
	var texts []string
	var whole int64
	var yes bool
	var numbers map[string]int64
	switch {
	case string(value) == "null":
		return ""
	case json.Unmarshal(value, &text) == nil:
		return text
	case json.Unmarshal(value, &yes) == nil:
		if yes {
			return "yes"
		}
		return "no"
	case json.Unmarshal(value, &whole) == nil && strings.HasSuffix(name, "_ts"):
		return utc(whole)
	case json.Unmarshal(value, &whole) == nil:
		return output.Count(whole)
	case json.Unmarshal(value, &texts) == nil && len(texts) == 0:
		return "none"
	case json.Unmarshal(value, &texts) == nil:
		if more := len(texts) - shownNames; more > 0 {
			return strings.Join(texts[:shownNames], ", ") + ", and " + output.Count(int64(more)) + " more"
		}
		return strings.Join(texts, ", ")
	case json.Unmarshal(value, &numbers) == nil:
		var parts []string
		for name, n := range numbers {
			parts = append(parts, word(name)+": "+output.Count(n))
		}
		slices.Sort(parts)
		return strings.Join(parts, ", ")
	}
	return cut(2000, string(value))
}
