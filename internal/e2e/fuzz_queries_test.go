package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

// one returns a random element.
func one[T any](f *readFuzz, of ...T) T { return of[f.random.IntN(len(of))] }

// chance is true n times of a hundred.
func (f *readFuzz) chance(n int) bool { return f.random.IntN(100) < n }

// query returns a random query, and the user who sends it.
func (f *readFuzz) query() (user fuzzUser, path string) {
	const admin = "/_synapse/admin/v1"
	room := one(f, f.rooms...)
	escaped := url.PathEscape(room.id)
	if f.chance(3) {
		escaped = one(f, "!unknown:lab.test", "x", "", "%23alias:lab.test", "!a%2Fb:x", "!%C3%A4:x")
	}
	values := url.Values{}
	user = f.admin
	switch kind := f.random.IntN(100); {
	case kind < 35:
		user = one(f, f.users...)
		f.page(values, room)
		path = "/_matrix/client/" + one(f, "v3", "r0") + "/rooms/" + escaped + "/messages"
	case kind < 50:
		f.page(values, room)
		path = admin + "/rooms/" + escaped + "/messages"
	case kind < 60:
		f.maybe(values, 70, "limit", one(f, "0", "1", "2", "5", "50", "1000"))
		if f.chance(40) {
			values.Set("filter", f.filter(room))
		}
		path = admin + "/rooms/" + escaped + "/context/" + url.PathEscape(f.event(room))
	case kind < 68:
		f.maybe(values, 50, "from", one(f, "0", "1", "5", "100"))
		f.maybe(values, 50, "limit", one(f, "0", "1", "3", "10"))
		f.maybe(values, 60, "order_by", one(f, "name", "canonical_alias", "joined_members", "joined_local_members", "version",
			"creator", "encryption", "federatable", "public", "join_rules", "guest_access", "history_visibility", "state_events", "size"))
		f.maybe(values, 40, "dir", one(f, "f", "b"))
		f.maybe(values, 30, "search_term", one(f, "a", "SPACE", "dolor", room.id, "zzz", "lab.test", "ops"))
		f.maybe(values, 20, "public_rooms", one(f, "true", "false"))
		f.maybe(values, 20, "empty_rooms", one(f, "true", "false"))
		path = admin + "/rooms"
	case kind < 78:
		part := one(f, "", "/members", "/state", "/block", "/forward_extremities")
		if part == "/state" {
			f.maybe(values, 50, "type", one(f, "m.room.member", "m.room.name", "m.room.create", "", "x"))
		}
		path = admin + "/rooms/" + escaped + part
	case kind < 82:
		values.Set("ts", strconv.FormatInt(f.anyEvent(room).ts+f.random.Int64N(2001)-1000, 10))
		f.maybe(values, 50, "dir", one(f, "f", "b"))
		path = admin + "/rooms/" + escaped + "/timestamp_to_event"
	case kind < 88:
		path = admin + "/fetch_event/" + url.PathEscape(f.event(room))
	case kind < 91:
		f.maybe(values, 40, "limit", one(f, "0", "1", "2", "10"))
		f.maybe(values, 40, "from", one(f, "0", "1", "3", "100"))
		f.maybe(values, 40, "dir", one(f, "f", "b"))
		f.maybe(values, 20, "user_id", one(f, "alice", "lab.test", "zzz"))
		f.maybe(values, 20, "room_id", room.id)
		path = admin + "/event_reports" + one(f, "", "/"+one(f, append(f.reports, "0", "x", "-1")...))
	case kind < 93:
		f.maybe(values, 50, "max_depth", one(f, "0", "1", "2"))
		f.maybe(values, 50, "limit", one(f, "0", "1", "2", "50"))
		path = admin + "/rooms/" + escaped + "/hierarchy"
	case kind < 95:
		path = admin + "/room/" + escaped + "/media"
	case kind < 97:
		f.maybe(values, 30, "action_name", one(f, "purge_history", "purge_room", "shutdown_and_purge_room", "x"))
		f.maybe(values, 30, "status", one(f, "scheduled", "active", "complete", "failed", "cancelled"))
		f.maybe(values, 20, "resource_id", room.id)
		path = admin + "/scheduled_tasks"
		if len(f.tasks) > 0 && f.chance(50) {
			clear(values)
			path = one(f, admin+"/purge_history_status/", "/_synapse/admin/v2/rooms/delete_status/") + one(f, f.tasks...)
		}
	default:
		f.maybe(values, 30, "limit", one(f, "0", "1", "3"))
		f.maybe(values, 30, "name", one(f, "b", "A", "zzz"))
		f.maybe(values, 30, "order_by", one(f, "name", "displayname", "is_guest", "admin", "user_type", "creation_ts", "locked"))
		f.maybe(values, 30, "locked", one(f, "true", "false"))
		f.maybe(values, 30, "dir", one(f, "f", "b"))
		path = one(f, "/_synapse/admin/v3/users", "/_synapse/admin/v2/users/"+url.PathEscape(one(f, f.users...).id),
			"/_matrix/client/versions", "/_synapse/admin/v1/server_version", "/_synapse/admin/v1/statistics/database/rooms")
	}
	if f.chance(2) {
		user = one(f, f.users...)
	}
	if f.chance(1) {
		user = one(f, fuzzUser{"without a token", ""}, fuzzUser{"with a wrong token", "wrong"})
	}
	if f.chance(2) {
		values.Set(one(f, "limit", "from", "dir", "filter", "ts", "to"), one(f, "", "x", "-1", "99999999999999999999", "{", "{}", "1.5"))
	}
	if query := values.Encode(); query != "" {
		path += "?" + query
	}
	return user, path
}

// maybe sets a parameter n times of a hundred.
func (f *readFuzz) maybe(values url.Values, n int, name, value string) {
	if f.chance(n) {
		values.Set(name, value)
	}
}

// page sets the parameters of a page of history.
func (f *readFuzz) page(values url.Values, room fuzzRoom) {
	f.maybe(values, 70, "dir", one(f, "f", "b", "b"))
	f.maybe(values, 70, "limit", one(f, "0", "1", "2", "3", "5", "20", "100", "1000"))
	if f.chance(60) {
		values.Set("from", f.token(room))
	}
	if f.chance(30) {
		values.Set("to", f.token(room))
	}
	if f.chance(40) {
		values.Set("filter", f.filter(room))
	}
	f.maybe(values, 5, "raw", "")
}

// anyEvent returns an event of the room, or the zero event.
func (f *readFuzz) anyEvent(room fuzzRoom) fuzzEvent {
	if len(room.events) == 0 {
		return fuzzEvent{id: "$none"}
	}
	return one(f, room.events...)
}

// event returns the id of an event, now and then of another room or of none.
func (f *readFuzz) event(room fuzzRoom) string {
	switch {
	case f.chance(3):
		return one(f, "$unknown", "", "x", "$a/b", "$ä")
	case f.chance(3):
		return f.anyEvent(one(f, f.rooms...)).id
	}
	return f.anyEvent(room).id
}

// token returns a page token, most often one of the room.
func (f *readFuzz) token(room fuzzRoom) string {
	event := f.anyEvent(room)
	switch f.random.IntN(10) {
	case 0, 1, 2, 3:
		return fmt.Sprintf("t%d-%d", event.topological, event.place)
	case 4:
		return fmt.Sprintf("t%d-%d_0_0_0_0_0_0_0_0_0", event.topological, event.place-1)
	case 5, 6:
		return fmt.Sprintf("s%d", max(event.place, 0))
	case 7:
		if f.chance(80) {
			return fmt.Sprintf("s%d_1_2_3", max(event.place, 0))
		}
		return fmt.Sprintf("m%d~1.%d", max(event.place, 0), max(event.place, 0)+1)
	case 8:
		if len(f.pages) > 0 {
			return one(f, f.pages...)
		}
		return "s0"
	}
	return one(f, "", "END", "s0", "t0-0", "s99999999", "t99999-99999999", "s-1", "x", "t1", "s1_x")
}

// filter returns a filter.
func (f *readFuzz) filter(room fuzzRoom) string {
	filter := map[string]any{}
	set := func(n int, key string, value any) {
		if f.chance(n) {
			filter[key] = value
		}
	}
	event := f.anyEvent(room)
	types := func() []string {
		return one(f, []string{event.kind}, []string{"m.room.*"}, []string{"m.room.message", "m.reaction"}, []string{}, []string{"*"},
			[]string{"m.room.member", "x"})
	}
	set(40, "types", types())
	set(20, "not_types", types())
	set(25, "senders", one(f, []string{event.sender}, []string{"@nobody:x"}, []string{}, []string{f.admin.id, event.sender}))
	set(15, "not_senders", []string{event.sender})
	set(5, "rooms", []string{one(f, room.id, "!else:x")})
	set(5, "not_rooms", []string{one(f, room.id, "!else:x")})
	set(15, "contains_url", f.chance(50))
	set(25, "lazy_load_members", f.chance(70))
	set(8, "related_by_rel_types", one(f, []string{"m.thread"}, []string{"m.replace", "m.reference"}))
	set(5, "related_by_senders", []string{event.sender})
	set(4, "event_format", one(f, "federation", "client"))
	set(4, "org.matrix.labels", []string{"#a"})
	set(4, "limit", f.random.IntN(5))
	text, _ := json.Marshal(filter)
	return string(text)
}
