package vacuum

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"lethe/internal/output"
	"lethe/internal/store/vacuum"
)

// decide returns the tables to vacuum, events first, and skips the others in the jobs'
// phases.
func (v *Vacuumer) decide(ctx context.Context, jobs []vacuum.Job) (wanted []vacuum.Facts, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	deleted := map[string]int64{} // by all jobs
	for _, job := range jobs {
		for i := range job.Phase.Tables {
			if t := &job.Phase.Tables[i]; !t.State.Ended() {
				deleted[t.Name] += job.Deleted[t.Name]
			}
		}
	}
	// After a VACUUM since the end of the last job the server knows what is left.
	since := jobs[0].EndedFor
	for _, job := range jobs {
		since = min(since, job.EndedFor)
	}
	found, err := v.queries.Facts(ctx, slices.Collect(maps.Keys(deleted)), since.Milliseconds())
	if err != nil {
		return nil, err
	}
	allowed, err := v.session.MayVacuum(ctx, found)
	if err != nil {
		return nil, err
	}
	for name := range deleted {
		i := slices.IndexFunc(found, func(f vacuum.Facts) bool { return f.Name == name })
		if i < 0 {
			v.skipIn(jobs, name, "the homeserver has no such table", nil)
			continue
		}
		facts := found[i]
		reason := v.reason(facts, deleted[name], allowed[facts.OID])
		if reason == "" {
			wanted = append(wanted, facts)
			continue
		}
		space, _ := v.queries.Space(ctx, facts) // it is for the reader only
		v.skipIn(jobs, name, reason, space)
	}
	slices.SortFunc(wanted, func(a, b vacuum.Facts) int { return vacuum.Compare(a.Name, b.Name) })
	return wanted, nil
}

// reason says why a table is not vacuumed, "" if it is. The statistics may not know of the
// last deletes yet, but the jobs do.
func (v *Vacuumer) reason(facts vacuum.Facts, deleted int64, allowed bool) string {
	dead := facts.Dead
	if !facts.Vacuumed {
		dead = max(dead, deleted)
	}
	share := float64(dead) / float64(max(dead+facts.Live, 1))
	switch {
	case facts.Vacuumed && (dead < v.options.MinRows || share < v.options.DeadShare):
		return "it has been vacuumed since the job's end"
	case dead < v.options.MinRows:
		return fmt.Sprintf("%s %s fewer than vacuum.min_rows", output.Counted(dead, "dead row"), output.Agree(dead, "is", "are"))
	case share < v.options.DeadShare:
		return fmt.Sprintf("%.1f%% of its rows are dead, less than vacuum.dead_share", 100*share)
	case !allowed && v.refused != "":
		return v.refused
	case !allowed:
		return fmt.Sprintf("the role %s may not vacuum it: lethe doctor --for vacuum says what to grant", v.session.Role())
	}
	return ""
}

// skipIn skips a table in the phases of the jobs.
func (v *Vacuumer) skipIn(jobs []vacuum.Job, name, reason string, space *vacuum.Space) {
	v.metrics.Vacuums.WithLabelValues(outcomeSkipped).Inc()
	for i := range jobs {
		if t := jobs[i].Phase.Table(name); t != nil && !t.State.Ended() {
			t.State, t.Reason, t.Space = vacuum.Skipped, reason, space
		}
		jobs[i].Phase.Settle()
	}
}
