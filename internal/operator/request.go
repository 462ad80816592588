package operator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lethe/internal/store/control"
	"lethe/internal/wire"
)

const (
	// pageSize is the size of a page of a list, and maxPage the largest.
	pageSize = 100
	maxPage  = 1000

	// maxTime is the last moment that the API takes: the end of the year 9999.
	maxTime = 253402300799999
)

var errPage = wire.InvalidParam("Query parameter from must be the next of another page")

// pageOf reads which page of a list is wanted.
func pageOf(q *wire.Query) control.Page {
	limit := q.Integer("limit", pageSize)
	if limit < 1 || limit > maxPage {
		q.Refuse(wire.InvalidParam(fmt.Sprintf("Query parameter limit must be from 1 to %d", maxPage)))
	}
	return control.Page{Limit: int(limit), After: q.ASCII("from")}
}

// nextOf returns the next of a page, nil on the last.
func nextOf(next string) *string {
	if next == "" {
		return nil
	}
	return &next
}

// oneOf refuses a word that is not among the words.
func oneOf(name string, given, words []string) error {
	for _, word := range given {
		if !slices.Contains(words, word) {
			return wire.InvalidParam("'" + name + "' must be one of " + strings.Join(words, ", "))
		}
	}
	return nil
}

// milliseconds returns a time in Unix milliseconds, 0 for the zero time.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// timeOf returns the time of Unix milliseconds, the zero time for 0.
func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(min(ms, maxTime))
}

// checkTime refuses times that no clock shows.
func checkTime(name string, ms int64) error {
	if ms < 0 || ms > maxTime {
		return wire.InvalidParam("'" + name + "' must be a time in Unix milliseconds")
	}
	return nil
}
