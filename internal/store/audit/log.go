package audit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// MaxPage is the most entries of a page.
const MaxPage = 1000

// ErrPosition is returned for a position that no page has given.
var ErrPosition = errors.New("the position of the page is not one that was given out")

// A Filter selects entries. An empty field selects all.
type Filter struct {
	// Who, Room and Job are ids.
	Who, Room, Job string

	Actions []Action
	Ways    []Way

	// Since is the earliest time, and Before the time before which the entries are.
	Since, Before time.Time
}

// A Page is a part of a list.
type Page struct {
	// Limit is the most entries, from 1 to [MaxPage].
	Limit int

	// After is the position after the last entry of the page before. Defaults to "", the
	// beginning of the list.
	After string
}

// A Log reads entries, and deletes old ones. It is safe for concurrent use.
type Log struct{ db *postgres.DB }

// NewLog returns the Log in the database.
func NewLog(db *postgres.DB) *Log { return &Log{db} }

// List returns a page of the entries that match, the newest first, and the position of the
// next page, "" if this is the last. It fails with [ErrPosition] for a position that no page
// has given.
func (l *Log) List(ctx context.Context, f Filter, page Page) (entries []Entry, next string, err error) {
	const operation = "read the audit"
	if !postgres.Storable(f.Who) || !postgres.Storable(f.Room) || !postgres.Storable(f.Job) {
		return nil, "", nil
	}
	var conditions []string
	var args []any
	add := func(condition string, values ...any) {
		for _, value := range values {
			args = append(args, value)
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(args)), 1)
		}
		conditions = append(conditions, condition)
	}
	for column, value := range map[string]string{"who": f.Who, "room_id": f.Room, "job_id": f.Job} {
		if value != "" {
			add(column+` = ?`, value)
		}
	}
	if len(f.Actions) > 0 {
		add(`action = ANY (?)`, f.Actions)
	}
	if len(f.Ways) > 0 {
		add(`way = ANY (?)`, f.Ways)
	}
	if !f.Since.IsZero() {
		add(`at >= ?`, f.Since)
	}
	if !f.Before.IsZero() {
		add(`at < ?`, f.Before)
	}
	if page.After != "" {
		at, id, err := parsePosition(page.After)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", operation, err)
		}
		add(`(at, id) < (?, ?)`, at, id)
	}
	where := ""
	if len(conditions) > 0 {
		where = ` WHERE ` + strings.Join(conditions, ` AND `)
	}
	limit := min(max(page.Limit, 1), MaxPage)
	entries, err = postgres.ReadAll(ctx, l.db, scan, `
		SELECT id, at, who, coalesce(way, ''), action, coalesce(subject, ''), coalesce(room_id, ''), coalesce(job_id, ''),
		       coalesce(reason, ''), detail
		FROM lethe.audit`+where+` ORDER BY at DESC, id DESC LIMIT `+strconv.Itoa(limit+1), args...)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", operation, err)
	}
	if len(entries) > limit {
		entries = entries[:limit]
		last := entries[limit-1]
		next = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d", last.At.UnixMicro(), last.ID))
	}
	return entries, next, nil
}

func scan(row pgx.CollectableRow) (e Entry, err error) {
	err = row.Scan(&e.ID, &e.At, &e.Who, &e.Way, &e.Action, &e.Subject, &e.Room, &e.Job, &e.Reason, &e.Detail)
	return e, err
}

func parsePosition(text string) (at time.Time, id int64, err error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return at, 0, ErrPosition
	}
	micros, rest, _ := strings.Cut(string(decoded), " ")
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil {
		return at, 0, ErrPosition
	}
	id, err = strconv.ParseInt(rest, 10, 64)
	// PostgreSQL has no times far before or after these.
	if at = time.UnixMicro(n).UTC(); err != nil || at.Year() < 1970 || at.Year() > 9999 {
		return at, 0, ErrPosition
	}
	return at, id, nil
}

// Prune deletes up to limit entries that are older than keep, the oldest first, and returns
// their number. Any number of callers may prune at once.
func (l *Log) Prune(ctx context.Context, keep time.Duration, limit int) (pruned int, err error) {
	tag, err := l.db.Exec(ctx, `
		DELETE FROM lethe.audit WHERE id IN (
			SELECT id FROM lethe.audit WHERE at < clock_timestamp() - $1::interval ORDER BY at, id LIMIT $2)`, keep, limit)
	if err != nil {
		return 0, fmt.Errorf("prune the audit: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
