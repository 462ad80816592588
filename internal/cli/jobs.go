package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lethe/internal/command"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/output"
	"lethe/internal/progress"
	"lethe/internal/wire"
)

var (
	states     = []string{"scheduled", "queued", "running", "held", "paused", "absorbed", "complete", "failed", "cancelled"}
	openStates = []string{"scheduled", "queued", "running", "held", "paused"}
	kinds      = []string{"purge_history", "delete_room", "retention_sweep", "abandoned_sweep"}
	queues     = []string{"critical", "default", "low"}
)

// maxPages bounds how many pages a list follows.
const maxPages = 10_000

func (a *app) job() *cobra.Command {
	c := command.Group(&cobra.Command{
		Use:   "job",
		Short: "list, watch, stop and resume jobs",
		Long:  `Lists, watches, stops and resumes jobs: purges, deletes and sweeps.`,
		Example: `  lethe job list --state running,held
  lethe job cancel AbCdEfGhIjKlMnOp --reason 'wrong room'`,
	})
	addConnection(c)
	c.AddCommand(a.jobList(), a.jobShow(), a.jobWatch(),
		a.verb("cancel", "end jobs before they have done everything", `Ends jobs. What is deleted stays deleted, and a purge says to which depth it is complete.
No worker need run: the row in the database decides.`,
			"  lethe job cancel AbCdEfGhIjKlMnOp --reason 'wrong room'\n  lethe job cancel --all-matching --room '!abc:example.org' --dry-run"),
		a.verb("pause", "keep jobs from going on until they are resumed", `Keeps jobs from going on, a running one from its next batch, until they are resumed or
until a time. lethe fleet pause does so for all jobs of a room or a kind.`,
			"  lethe job pause AbCdEfGhIjKlMnOp --until 8h --reason 'backup'\n  lethe job pause --all-matching --kind retention_sweep"),
		a.verb("resume", "let paused jobs go on", `Lifts the pause of jobs. A job may still be covered by the pause of its room, its kind or
the fleet, and then says so.`,
			"  lethe job resume AbCdEfGhIjKlMnOp\n  lethe job resume --all-matching --state paused"),
		a.verb("retry", "let jobs that failed or were cancelled go on", `Puts jobs that have failed or were cancelled back into the queue, under the same id. They go
on where they have stopped.`,
			"  lethe job retry AbCdEfGhIjKlMnOp\n  lethe job retry --all-matching --state failed --since 1d"),
		a.verb("priority", "move jobs to another queue", `Moves jobs to the queue critical, default or low.`,
			"  lethe job priority AbCdEfGhIjKlMnOp --queue critical\n  lethe job priority --all-matching --kind purge_history --state queued --queue low"))
	return c
}

// A selection is the flags that select jobs.
type selection struct {
	states, kinds   []string
	room, requester string
	since, before   string
	flags           *pflag.FlagSet
}

// addSelection adds the flags that select jobs, of a list or of a verb.
func addSelection(c *cobra.Command, isList bool) *selection {
	s := &selection{flags: c.Flags()}
	s.flags.StringSliceVar(&s.states, "state", nil, "only jobs in this `state`: "+strings.Join(states, ", ")+"; may be repeated")
	s.flags.StringSliceVar(&s.kinds, "kind", nil, "only jobs of this `kind`: "+strings.Join(kinds, ", ")+"; may be repeated")
	s.flags.StringVar(&s.room, "room", "", "only jobs of the room with this `id`")
	s.flags.StringVar(&s.requester, "requester", "", "only jobs that this `user` has requested")
	s.flags.StringVar(&s.since, "since", "", "only jobs that were requested since this `time`, "+command.TimeForms)
	if !isList { // the list of the API has no such filter
		s.flags.StringVar(&s.before, "before", "", "only jobs that were requested before this `time`")
	}
	completes(c, "state", states...)
	completes(c, "kind", kinds...)
	return s
}

// selects reports whether one of the flags is set.
func (s *selection) selects() bool {
	return slices.ContainsFunc([]string{"state", "kind", "room", "requester", "since", "before"}, s.flags.Changed)
}

// filter returns the filter that the flags say.
func (s *selection) filter() (operator.Filter, error) {
	f := operator.Filter{States: s.states, Kinds: s.kinds, Room: s.room, Requester: s.requester}
	if err := knownWords("--state", s.states, states); err != nil {
		return f, err
	}
	if err := knownWords("--kind", s.kinds, kinds); err != nil {
		return f, err
	}
	// The value of a variable that is not set would select all jobs.
	for name, text := range map[string]string{"room": s.room, "requester": s.requester, "since": s.since, "before": s.before} {
		if text == "" && s.flags.Changed(name) {
			return f, command.Usage("--%s must not be empty", name)
		}
	}
	if s.room != "" {
		if _, err := room(s.room); err != nil {
			return f, fmt.Errorf("--room: %w", err)
		}
	}
	for name, into := range map[string]struct {
		text string
		ms   *int64
	}{"--since": {s.since, &f.Since}, "--before": {s.before, &f.Before}} {
		if into.text == "" {
			continue
		}
		ms, err := command.ParseTime(into.text, time.Now(), -1)
		if err != nil {
			return f, command.Usage("%s: %w", name, err)
		}
		*into.ms = ms
	}
	return f, nil
}

// knownWords names the first word that is not known.
func knownWords(flag string, words, known []string) error {
	for _, word := range words {
		if !slices.Contains(known, word) {
			return command.Usage("%s: %q is not one of %s", flag, word, strings.Join(known, ", "))
		}
	}
	return nil
}

func (a *app) jobList() *cobra.Command {
	var limit int
	var from string
	var all bool
	c := &cobra.Command{
		Use:   "list",
		Short: "list jobs, the newest first",
		Long:  `Lists jobs, the newest first.`,
		Example: `  lethe job list
  lethe job list --state running,held,paused --kind purge_history
  lethe job list --room '!abc:example.org' --since 30d --output json`,
		Args: command.NoArguments,
	}
	s := addSelection(c, true)
	c.Flags().IntVar(&limit, "limit", 100, "the most jobs of a page")
	c.Flags().StringVar(&from, "from", "", "list from this `place`, the \"next\" of the page before")
	c.Flags().BoolVar(&all, "all", false, "list all pages")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, _ []string) error {
		if limit < 1 {
			return command.Usage("--limit must be at least 1")
		}
		filter, err := s.filter()
		if err != nil {
			return err
		}
		query := client.JobQuery{
			States: filter.States, Kinds: filter.Kinds, Room: filter.Room, Requester: filter.Requester, Since: filter.Since,
			Limit: limit, From: from,
		}
		page, err := api.Jobs(ctx, query)
		if err != nil {
			return err
		}
		for pages := 1; all && page.Next != nil && pages < maxPages; pages++ {
			query.From = *page.Next
			more, err := api.Jobs(ctx, query)
			if err != nil {
				return err
			}
			page.Jobs, page.Next = append(page.Jobs, more.Jobs...), more.Next
		}
		if page.Jobs == nil {
			page.Jobs = []operator.Job{}
		}
		if err := print(c, page, func(w io.Writer) error { return jobTable(w, page.Jobs) }); err != nil {
			return err
		}
		if page.Next != nil && formatOf(c) == "table" {
			warn(c, "there are more: --from %s lists the next page, and --all lists them all", *page.Next)
		}
		return nil
	})
	return c
}

// jobTable prints jobs, a line each.
func jobTable(w io.Writer, jobs []operator.Job) error {
	lines := make([][]string, 0, len(jobs))
	for _, job := range jobs {
		lines = append(lines, []string{job.ID, job.Kind, job.Room, job.State, job.Queue, output.At(job.Created), progress.Done(job), progress.Rate(job), progress.Left(job), progress.Reason(job)})
	}
	return output.Rows(w, []string{"ID", "KIND", "ROOM", "STATE", "QUEUE", "REQUESTED (UTC)", "DONE", "RATE", "LEFT", "WHY"}, lines)
}

func (a *app) jobShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "show a job, what it has deleted, and what has happened to it",
		Long:  `Shows a job, what it has deleted by table, and what has happened to it.`,
		Example: `  lethe job show AbCdEfGhIjKlMnOp
  lethe job show AbCdEfGhIjKlMnOp --output json`,
		Args: command.Arguments("the id of a job"),
		RunE: a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
			job, err := api.Job(ctx, args[0])
			if err != nil {
				return err
			}
			return printJob(c, job)
		}),
	}
}

// printJob prints one job.
func printJob(c *cobra.Command, job operator.Job) error {
	if job.Deleted == nil {
		job.Deleted = map[string]int64{}
	}
	return print(c, job, func(w io.Writer) error { return progress.Details(w, job) })
}

// verb returns the command of a verb on jobs.
func (a *app) verb(name, short, long, example string) *cobra.Command {
	var body operator.VerbRequest
	var all bool
	var until string
	var limit int
	c := &cobra.Command{
		Use:     name + " (ID… | --all-matching FILTER)",
		Short:   short,
		Long:    long,
		Example: example,
		Args:    cobra.ArbitraryArgs,
	}
	flags := c.Flags()
	flags.StringVar(&body.Reason, "reason", "", "why, for the log of the job")
	flags.BoolVar(&body.DryRun, "dry-run", false, "only say what would be done")
	flags.BoolVar(&all, "all-matching", false, "do so to all jobs that match the flags --state, --kind, --room, --requester, --since and --before")
	flags.IntVar(&limit, "limit", 0, "with --all-matching: the most jobs (default 1000)")
	s := addSelection(c, false)
	if name == "pause" {
		flags.StringVar(&until, "until", "", "resume the job by itself at this `time`, "+command.TimeForms+" from now")
	}
	if name == "priority" {
		flags.StringVar(&body.Queue, "queue", "", "the `queue`: "+strings.Join(queues, ", "))
		completes(c, "queue", queues...)
	}
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		filter, err := s.filter()
		switch {
		case err != nil:
			return err
		case all && len(args) > 0:
			return command.Usage("--all-matching and the id %q cannot be together", args[0])
		case all && !s.selects():
			return command.Usage("--all-matching needs a flag that selects jobs, such as --room")
		case !all && (s.selects() || limit != 0):
			return command.Usage("the flags that select jobs need --all-matching")
		case !all && len(args) == 0:
			return command.Usage("%s needs the id of a job, or --all-matching", c.CommandPath())
		case c.Flags().Changed("limit") && limit < 1:
			return command.Usage("--limit must be at least 1")
		case name == "priority" && !slices.Contains(queues, body.Queue):
			return command.Usage("--queue must be one of %s", strings.Join(queues, ", "))
		}
		if until != "" {
			if body.Until, err = command.ParseUntil(until); err != nil {
				return err
			}
		}
		if all {
			outcomes, err := api.DoAll(ctx, operator.BulkRequest{Verb: name, VerbRequest: body, Filter: filter, Limit: limit})
			if err != nil {
				return err
			}
			return printOutcomes(c, outcomes, outcomes, body.DryRun, command.Refused)
		}
		return doEach(ctx, c, api, args, body)
	})
	return c
}

// doEach does the verb of the command to the jobs with the ids. What is wrong with one of
// them does not keep it from the others, and the highest exit status counts.
func doEach(ctx context.Context, c *cobra.Command, api *client.Client, ids []string, body operator.VerbRequest) error {
	var outcomes operator.Outcomes
	status := command.Done
	for i, id := range ids {
		outcome, err := api.Do(ctx, c.Name(), id, body)
		var answer *wire.Error
		switch {
		case errors.As(err, &answer) && answer.Status == http.StatusNotFound && len(ids) > 1:
			outcome = operator.Outcome{Job: operator.Job{ID: id, Deleted: map[string]int64{}}, Refusal: answer.Text}
			status = max(status, command.Failed)
		case err != nil && i > 0:
			err = fmt.Errorf("job %s: %w; it and the %d after it were left", id, explain(err), len(ids)-i-1)
			return cmp.Or(printOutcomes(c, outcomes, outcomes, body.DryRun, status), err)
		case err != nil:
			return err
		case !outcome.Done:
			status = command.Refused
			if job, err := api.Job(ctx, id); err == nil {
				job.Request, job.Result, job.Vacuum, job.Log = nil, nil, nil, nil
				outcome.Job = job
			}
		default:
			outcomes.Done++
		}
		outcomes.Outcomes = append(outcomes.Outcomes, outcome)
		outcomes.Matched++
	}
	if len(ids) == 1 {
		return printOutcomes(c, outcomes.Outcomes[0], outcomes, body.DryRun, status)
	}
	return printOutcomes(c, outcomes, outcomes, body.DryRun, status)
}

// maxNamed bounds how many jobs an error names.
const maxNamed = 20

// printOutcomes prints what a verb has done. If it was not done to a job, it fails with the
// status.
func printOutcomes(c *cobra.Command, document any, outcomes operator.Outcomes, dryRun bool, status int) error {
	var refusals []string
	err := print(c, document, func(w io.Writer) error {
		lines := make([][]string, 0, len(outcomes.Outcomes))
		for _, outcome := range outcomes.Outcomes {
			done := "done"
			switch {
			case !outcome.Done:
				done = "refused"
			case dryRun:
				done = "would be done"
			}
			lines = append(lines, []string{outcome.Job.ID, outcome.Job.Kind, outcome.Job.Room, outcome.Job.State, done})
		}
		return output.Rows(w, []string{"ID", "KIND", "ROOM", "STATE", strings.ToUpper(c.Name())}, lines)
	})
	if err != nil {
		return err
	}
	if outcomes.Matched > len(outcomes.Outcomes) {
		looked := len(outcomes.Outcomes)
		warn(c, "%s match, and %d of them %s looked at: raise --limit, or run it again", output.Counted(outcomes.Matched, "job"), looked, output.Agree(looked, "was", "were"))
	}
	for _, outcome := range outcomes.Outcomes {
		if outcome.Done {
			continue
		}
		refusals = append(refusals, fmt.Sprintf("job %s cannot be %s: %s", outcome.Job.ID, operator.Participle(c.Name()), outcome.Refusal))
	}
	if n := len(refusals); n > maxNamed {
		refusals = append(refusals[:maxNamed], fmt.Sprintf("and %d more", n-maxNamed))
	}
	if len(refusals) == 0 {
		return nil
	}
	return &command.StatusError{Status: status, Err: errors.New(strings.Join(refusals, "\n"))}
}
