package console

import (
	"net/http"
	"slices"
	"strings"

	"lethe/internal/operator"
)

// listedSchedules is the most schedules of their page, which has no further ones.
const listedSchedules = 30

// A schedulesPage is the list of schedules.
type schedulesPage struct {
	frame
	Schedules []scheduleRow

	// More is how many further schedules there are.
	More int
}

// A scheduleRow is a schedule with what its last sweep has skipped.
type scheduleRow struct {
	operator.Schedule

	// Skipped are the rooms that the last sweep has skipped, by reason, the most common
	// first. Rooms without any reason are left out.
	Skipped []tableRows
}

// Runs reports whether a sweep can be asked for.
func (r scheduleRow) Runs() bool { return r.Configured || r.Scheduled }

func (c *Console) schedulesPage(v *visit) error {
	page := schedulesPage{frame: v.frame("Schedules").in("schedules")}
	list, err := c.schedules(v)
	if err != nil {
		return err
	}
	// Those that the settings do not have any more are the first to be left out.
	slices.SortStableFunc(list, func(a, b scheduleRow) int {
		switch {
		case a.Runs() == b.Runs():
			return 0
		case a.Runs():
			return -1
		}
		return 1
	})
	page.Schedules = list[:min(len(list), listedSchedules)]
	page.More = len(list) - len(page.Schedules)
	return v.render(http.StatusOK, "schedules", page)
}

// schedules returns all schedules.
func (c *Console) schedules(v *visit) (rows []scheduleRow, err error) {
	var list operator.Schedules
	if err := c.get(v.r.Context(), v.session.User, "/schedules", nil, &list); err != nil {
		return nil, err
	}
	for _, schedule := range list.Schedules {
		row := scheduleRow{Schedule: schedule}
		if last := schedule.LastSweep; last != nil && last.Result != nil {
			row.Skipped = rowsOf(last.Result.Skipped)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// A runPage asks whether a sweep is meant.
type runPage struct {
	frame
	Schedule scheduleRow
}

func (c *Console) runPage(v *visit) error {
	if v.reads {
		return errReads
	}
	list, err := c.schedules(v)
	if err != nil {
		return err
	}
	name := v.r.URL.Query().Get("name")
	i := slices.IndexFunc(list, func(row scheduleRow) bool { return row.Name == name && row.Runs() })
	if i < 0 {
		return errNoPage
	}
	return v.render(http.StatusOK, "schedule", runPage{v.frame("Sweep now: " + cut(100, name)).in("schedules"), list[i]})
}

// run asks for a sweep of the form's schedule.
func (c *Console) run(v *visit) error {
	form := v.r.PostForm
	var accepted operator.Accepted
	if err := c.api.Call(v.r.Context(), v.session.User, operator.Call{
		Method: http.MethodPost, Path: "/schedules/{name}/run", Parameters: map[string]string{"name": form.Get("name")},
		Body: operator.RunRequest{Grace: form.Get("grace"), Reason: strings.TrimSpace(form.Get("reason"))},
	}, &accepted); err != nil {
		return err
	}
	return v.redirect(Root + "/jobs/" + accepted.ID + "?done=accept")
}
