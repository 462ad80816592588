package operator

import (
	"errors"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// Actions returns the names of the actions in an [AuditEntry].
func Actions() (names []string) {
	for _, action := range audit.Actions() {
		names = append(names, string(action))
	}
	return names
}

// auditList is GET /_lethe/v1/audit.
func (o *Operator) auditList(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	page := pageOf(q)
	since, before := q.Integer("since", 0), q.Integer("before", 0)
	filter := audit.Filter{Since: timeOf(since), Before: timeOf(before)}
	for _, action := range q.SeveralOf("action", Actions()...) {
		filter.Actions = append(filter.Actions, audit.Action(action))
	}
	for _, way := range q.SeveralOf("way", string(audit.API), string(audit.CLI), string(audit.Console)) {
		filter.Ways = append(filter.Ways, audit.Way(way))
	}
	filter.Who, _ = q.Text("who")
	filter.Room, _ = q.Text("room")
	filter.Job, _ = q.Text("job")
	if err := errors.Join(q.Err(), checkTime("since", since), checkTime("before", before)); err != nil {
		return err
	}
	for name, text := range map[string]string{"who": filter.Who, "room": filter.Room, "job": filter.Job} {
		if !postgres.Storable(text) {
			return wire.InvalidParam("'" + name + "' has a zero byte")
		}
	}
	entries, next, err := o.audit.List(c.Request().Context(), filter, audit.Page{Limit: page.Limit, After: page.After})
	answer := Audit{Entries: make([]AuditEntry, 0, len(entries)), Next: nextOf(next)}
	for _, e := range entries {
		answer.Entries = append(answer.Entries, AuditEntry{
			ID: e.ID, At: milliseconds(e.At), Who: e.Who, Way: string(e.Way), Action: string(e.Action), Subject: e.Subject,
			Room: e.Room, Job: e.Job, Reason: e.Reason, Detail: e.Detail,
		})
	}
	return wire.AnswerOK(c, answer, wire.Instead(err, audit.ErrPosition, errPage))
}
