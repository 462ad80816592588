package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lethe/internal/operator"
	"lethe/internal/wire"
)

// listedEntries is the number of entries of a page of the audit, as few as [listedHolds].
const listedEntries = 30

// An auditPage is a page of what users have done.
type auditPage struct {
	frame
	Entries []auditRow

	// Actions and Ways can be chosen, and the others are what was.
	Actions, Ways                              []string
	Action, Way, Who, Room, Job, Since, Before string

	// First is the query of the first page, "" on it, and Next that of the next page, "" on
	// the last.
	First, Next string
}

// An auditRow is an entry with its details in words.
type auditRow struct {
	operator.AuditEntry
	Words string
}

func (c *Console) auditPage(v *visit) error {
	query := v.r.URL.Query()
	text := func(name string) string { return strings.TrimSpace(query.Get(name)) }
	page := auditPage{
		frame: v.frame("Audit").in("audit"), Actions: operator.Actions(), Ways: []string{"api", "cli", "console"},
		Action: query.Get("action"), Way: query.Get("way"), Who: text("who"), Room: text("room"), Job: text("job"),
		Since: text("since"), Before: text("before"),
	}
	asked, chosen := url.Values{"limit": {strconv.Itoa(listedEntries)}}, url.Values{}
	for name, value := range map[string]string{"action": page.Action, "way": page.Way, "who": page.Who, "room": page.Room, "job": page.Job} {
		if value != "" {
			asked.Set(name, value)
			chosen.Set(name, value)
		}
	}
	for name, value := range map[string]string{"since": page.Since, "before": page.Before} {
		if value == "" {
			continue
		}
		at, err := time.Parse(formTime, value)
		if err != nil || at.UnixMilli() < 0 {
			return wire.InvalidParam("A time must be such as 2026-01-31T12:00, in UTC")
		}
		asked.Set(name, strconv.FormatInt(at.UnixMilli(), 10))
		chosen.Set(name, value)
	}
	if from := query.Get("from"); from != "" {
		asked.Set("from", from)
		page.First = "?" + chosen.Encode()
	}
	var list operator.Audit
	if err := c.get(v.r.Context(), v.session.User, "/audit", asked, &list); err != nil {
		return err
	}
	for _, entry := range list.Entries {
		page.Entries = append(page.Entries, auditRow{entry, changeOf(entry.Detail)})
	}
	if list.Next != nil {
		chosen.Set("from", *list.Next)
		page.Next = "?" + chosen.Encode()
	}
	return v.render(http.StatusOK, "audit", page)
}

// changeOf returns what an entry's detail says: what was set, and what that replaces.
func changeOf(detail json.RawMessage) string {
	var values map[string]json.RawMessage
	if json.Unmarshal(detail, &values) != nil {
		return ""
	}
	var parts []string
	for name, value := range values {
		if name == "before" {
			continue
		}
		shown := valueOf(name, value)
		if shown == "" {
			shown = "not set"
		}
		parts = append(parts, word(strings.TrimSuffix(name, "_ts"))+": "+shown)
	}
	slices.Sort(parts)
	words := strings.Join(parts, ", ")
	if before := changeOf(values["before"]); before != "" {
		words = strings.TrimPrefix(words+"; before that "+before, "; ")
	}
	return words
}
