package progress

import (
	"fmt"
	"io"
	"time"

	"lethe/internal/output"
	"lethe/internal/store/vacuum"
)

// vacuumed prints what is done, after a job's end, about the space that it has left. The
// figures of the space are estimates.
func vacuumed(w io.Writer, phase *vacuum.Phase) error {
	if phase == nil {
		return nil
	}
	_, _ = fmt.Fprintln(w) // the table returns its error
	fields := []string{"vacuum", string(phase.State), "vacuum waits for", phase.WaitsFor}
	if walk := phase.Walk; walk != nil {
		text := string(walk.State)
		if walk.Reason != "" {
			text += ": " + walk.Reason
		} else if walk.State == vacuum.Done {
			text += " in " + seconds(walk.Seconds)
		}
		fields = append(fields, "index walk", text)
	}
	if err := output.Fields(w, fields...); err != nil {
		return err
	}
	var lines [][]string
	for _, t := range phase.Tables {
		line := []string{t.Name, string(t.State), "", "", "", "", "", t.Reason}
		if t.State == vacuum.Done {
			line[2] = seconds(t.Seconds)
		}
		if s := t.Space; s != nil {
			line[3], line[4], line[5], line[6] = output.Size(s.Dead), output.Size(s.Reusable), output.Size(s.Returnable), output.Size(s.Rewrite)
		}
		lines = append(lines, line)
	}
	_, _ = fmt.Fprintln(w)
	return output.Rows(w, []string{"VACUUM OF", "STATE", "TOOK", "~DEAD", "~REUSABLE", "~TRUNCATE", "~REWRITE", "WHY"}, lines)
}

func seconds(s float64) string {
	return (time.Duration(min(s, 1e9)*1000) * time.Millisecond).String()
}
