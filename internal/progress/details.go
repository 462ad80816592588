package progress

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lethe/internal/operator"
	"lethe/internal/output"
	"lethe/internal/store/leftover"
)

// maxNamed bounds how many users, aliases or servers a line names.
const maxNamed = 10

// Details prints a job, what it was requested to do, what it has come to, what it has
// deleted, and what has happened to it.
func Details(w io.Writer, job operator.Job) error {
	fields := []string{"id", job.ID, "kind", job.Kind, "room", job.Room, "state", job.State, "phase", job.Phase, "queue", job.Queue, "requested by", job.Requester}
	if job.Request != nil {
		fields = append(fields, requested(*job.Request)...)
	}
	fields = append(fields, "gone through", of(job))
	if unit(job) == eventUnit {
		fields = append(fields, "deleted events", output.Count(job.Events))
	}
	if job.Result != nil {
		fields = append(fields, result(*job.Result)...)
	}
	waits := job.WaitsFor
	if job.WaitsSince > 0 {
		waits += " (since " + output.At(job.WaitsSince) + ")"
	}
	complete := ""
	if job.CompleteBelow != nil {
		complete = fmt.Sprintf("below depth %d", *job.CompleteBelow)
	}
	fields = append(fields,
		"rate", Rate(job), "left", Left(job), "worker", job.Worker, "batches", fmt.Sprint(job.Batches), "attempts", fmt.Sprint(job.Attempts),
		"waits for", waits, "complete", complete, "absorbed by", job.AbsorbedBy, "last failure", job.LastFailure, "error", job.Error,
		"requested (UTC)", output.At(job.Created), "begins (UTC)", output.At(job.Due), "started (UTC)", output.At(job.Started),
		"updated (UTC)", output.At(job.Updated), "ended (UTC)", output.At(job.Ended))
	if err := output.Fields(w, fields...); err != nil {
		return err
	}
	if len(job.Deleted) > 0 {
		var lines [][]string
		for _, table := range slices.Sorted(maps.Keys(job.Deleted)) {
			lines = append(lines, []string{table, output.Count(job.Deleted[table])})
		}
		_, _ = fmt.Fprintln(w) // the table returns its error
		if err := output.Rows(w, []string{"DELETED FROM", "ROWS"}, lines); err != nil {
			return err
		}
	}
	if err := vacuumed(w, job.Vacuum); err != nil || len(job.Log) == 0 {
		return err
	}
	var lines [][]string
	for _, event := range job.Log {
		lines = append(lines, []string{output.At(event.At), event.Event, event.Who, event.Reason, detail(event.Detail)})
	}
	_, _ = fmt.Fprintln(w) // the table returns its error
	return output.Rows(w, []string{"TIME (UTC)", "EVENT", "WHO", "REASON", "DETAIL"}, lines)
}

// Done returns how much a job has gone through, such as 1,200/20,000.
func Done(job operator.Job) string {
	if job.Total == nil {
		return output.Count(job.Done)
	}
	return output.Count(job.Done) + "/" + output.Count(*job.Total)
}

// Rate returns how fast a job runs, "-" if it does not.
func Rate(job operator.Job) string {
	if job.State != "running" || job.Rate <= 0 {
		return "-"
	}
	return output.Count(int64(job.Rate)) + "/s"
}

// Left returns how long a job will still run, "-" if that is not known.
func Left(job operator.Job) string {
	if job.State != "running" || job.ETA == nil {
		return "-"
	}
	// A rate of nearly nothing gives more seconds than a Duration holds.
	return Duration(time.Duration(min(*job.ETA, 1e9) * float64(time.Second)))
}

// Reason returns why a job waits, or has failed.
func Reason(job operator.Job) string {
	switch {
	case job.Error != "":
		return job.Error
	case job.AbsorbedBy != "":
		return "absorbed by " + job.AbsorbedBy
	}
	return job.WaitsFor
}

// requested returns names and values of what a job was requested to do.
func requested(r operator.JobRequest) []string {
	before := r.BeforeEvent
	if r.BeforeTime != nil {
		before = time.UnixMilli(*r.BeforeTime).UTC().Format(time.DateTime) + " (UTC)"
	}
	if r.BeforeDepth != nil {
		before = strings.TrimSpace(before + fmt.Sprintf(" (below depth %d)", *r.BeforeDepth))
	}
	newRoom := ""
	if r.NewRoomUser != "" {
		newRoom = fmt.Sprintf("by %s, called %q", r.NewRoomUser, r.RoomName)
	}
	delay := ""
	if r.PurgeDelay > 0 {
		delay = Duration(time.Duration(min(r.PurgeDelay, 1e9) * float64(time.Second)))
	}
	tolerance := ""
	if r.Tolerance > 0 {
		tolerance = output.Counted(r.Tolerance, eventUnit)
	}
	return []string{
		"reason", r.Reason, "before", before, "delete local events", yesOrNo(r.DeleteLocal),
		"retention job", cmp.Or(r.RetentionJob, r.Name), "expired before (UTC)", output.At(r.ExpiredBefore),
		"block", yesOrNo(r.Block), "purge", yesOrNo(r.Purge), "force purge", yesOrNo(r.ForcePurge), "new room", newRoom, "message", r.Message,
		"purge delay", delay, "made by sweep", r.Sweep, "plan", r.Plan, "tolerance", tolerance,
	}
}

// yesOrNo returns the word for a flag, "" for one that a job does not have.
func yesOrNo(flag *bool) string {
	switch {
	case flag == nil:
		return ""
	case *flag:
		return "yes"
	}
	return "no"
}

// result returns names and values of what a delete or a sweep has come to.
func result(r operator.JobResult) []string {
	newRoom := ""
	if r.NewRoom != nil {
		newRoom = *r.NewRoom
	}
	fields := []string{
		"users kicked", named(r.KickedUsers), "failed to kick", named(r.FailedToKickUsers), "local aliases", named(r.LocalAliases),
		"new room id", newRoom, "servers not told", named(r.RemoteServersNotTold),
	}
	if r.Enqueued != nil {
		var skipped int64
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(r.Skipped)) {
			if n := r.Skipped[reason]; n > 0 {
				skipped += n
				reasons = append(reasons, strings.ReplaceAll(reason, "_", " ")+" "+output.Count(n))
			}
		}
		text := output.Counted(skipped, roomUnit)
		if len(reasons) > 0 {
			text += ": " + strings.Join(reasons, ", ")
		}
		fields = append(fields, "enqueued", output.Counted(*r.Enqueued, "job"), "skipped", text)
	}
	for _, failure := range r.Failures {
		fields = append(fields, "failed", failure.Room+": "+failure.Error)
	}
	if r.Report != nil {
		fields = append(fields, "check skipped", r.Report.Skipped, "not checked", strings.Join(r.NotChecked, ", "))
		for _, table := range r.Left {
			fields = append(fields, "left over", rowsOf(table))
		}
		for _, table := range r.Kept {
			fields = append(fields, "kept", rowsOf(table))
		}
	}
	return fields
}

// rowsOf returns how many rows of a table a check has found, and why they are there.
func rowsOf(t leftover.Table) string {
	rows := output.Counted(t.Rows, "row")
	if t.More {
		rows = output.Count(t.Rows) + " or more rows"
	}
	return fmt.Sprintf("%s of %s: %s", rows, t.Table, t.Why)
}

// named returns the number of names and the first of them, "" for a list that a job does
// not have.
func named(names []string) string {
	switch {
	case names == nil:
		return ""
	case len(names) == 0:
		return "0"
	case len(names) > maxNamed:
		return output.Count(int64(len(names))) + ": " + strings.Join(names[:maxNamed], ", ") + ", …"
	}
	return output.Count(int64(len(names))) + ": " + strings.Join(names, ", ")
}

// detailWords are what the keys of an event's detail mean, in the order of a line.
var detailWords = []struct{ key, words string }{
	{"from", "was"},
	{"queue", "to the queue"},
	{"until_ts", "until"},
	{"due_ts", "begins at"},
	{"worker", "by"},
	{"waits_for", "waits for"},
	{"absorbed_by", "by the purge"},
	{"complete_below", "complete below depth"},
	{"last_failure", "failure:"},
	{"error", "error:"},
	{"digest", "plan"},
	{"tolerance", "tolerance"},
}

// detail returns the detail of an event in words.
func detail(object json.RawMessage) string {
	values := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(string(object)))
	decoder.UseNumber()
	if len(object) == 0 || decoder.Decode(&values) != nil {
		return string(object)
	}
	if plan, ok := values["plan"].(map[string]any); ok {
		delete(values, "plan")
		maps.Copy(values, plan)
	}
	var words []string
	for _, known := range detailWords {
		if value, ok := values[known.key]; ok {
			words = append(words, known.words+" "+valueOf(known.key, value))
			delete(values, known.key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(values)) { // of a later version
		words = append(words, strings.ReplaceAll(strings.TrimSuffix(key, "_ts"), "_", " ")+" "+valueOf(key, values[key]))
	}
	return strings.Join(words, ", ")
}

// valueOf returns a value of an event's detail as text.
func valueOf(key string, value any) string {
	if strings.HasSuffix(key, "_ts") {
		if ms, err := strconv.ParseInt(fmt.Sprint(value), 10, 64); err == nil {
			return output.At(ms)
		}
	}
	return fmt.Sprint(value)
}
