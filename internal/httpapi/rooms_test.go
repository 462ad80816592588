package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/schema"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

const rooms = "/_synapse/admin/v1/rooms"

// A listedRoom is a room of the list's tests.
type listedRoom struct {
	ID          string  `json:"room_id"`
	Name        *string `json:"name"`
	Alias       *string `json:"canonical_alias"`
	Joined      int64   `json:"joined_members"`
	JoinedLocal int64   `json:"joined_local_members"`
	Version     *string `json:"version"`
	Creator     *string `json:"creator"`
	Encryption  *string `json:"encryption"`
	Federatable *bool   `json:"federatable"`
	Public      *bool   `json:"public"`
	JoinRules   *string `json:"join_rules"`
	Guests      *string `json:"guest_access"`
	Visibility  *string `json:"history_visibility"`
	StateEvents int64   `json:"state_events"`
	Type        *string `json:"room_type"`
}

// listedRooms are some whose names and aliases are hard to search, and others
// that are alike in much. They are the same in every run.
func listedRooms() []listedRoom {
	var made []listedRoom
	for _, room := range []struct{ id, name, alias string }{
		{"percent", "100% pure", "#100%:x"},
		{"number", "100 pure", "#1000:x"},
		{"underscore", "a_b", "#a_b:x"},
		{"other", "aXb", "#axb:x"},
		{"back", `a\b`, `#a\b:x`},
		{"slash", `a\\b`, "#a/b:x"},
		{"quotes", `O'Brien "said"`, "#obrien:x"},
		{"small", "жёлтый", "#yellow:x"},
		{"LARGE", "ЖЁЛТЫЙ Room", "#Room_Alias1:x:8448"},
		{"empty", "", ""},
		{"tags", "<b>&amp;</b>\t\n🎉", "no alias"},
		{"null", "\x00null", "\x00null"},
	} {
		listed := listedRoom{ID: "!" + room.id + ":x", Name: &room.name, Alias: &room.alias, Version: new("10")}
		if room.id == "null" {
			listed.Name, listed.Alias = nil, nil
		}
		made = append(made, listed)
	}
	random := rand.New(rand.NewPCG(1, 2))
	one := func(of ...string) *string {
		if i := random.IntN(len(of) + 1); i < len(of) {
			return &of[i]
		}
		return nil
	}
	flag := func() *bool { return []*bool{nil, new(false), new(true), new(true)}[random.IntN(4)] }
	for i := range 60 {
		made = append(made, listedRoom{
			ID:          fmt.Sprintf("!%c%d:x", "aA_z"[i%4], i),
			Name:        one("pure", "Pure", "b", "B", "é", "_", "100"),
			Alias:       one("#a:x", "#B:x", "#pure:y"),
			Joined:      random.Int64N(4),
			JoinedLocal: random.Int64N(3),
			Version:     one("1", "9", "10", "12"),
			Creator:     one("@a:x", "@b:x", "@B:x"),
			Encryption:  one("m.megolm.v1.aes-sha2"),
			Federatable: flag(),
			Public:      flag(),
			JoinRules:   one("public", "invite", "knock"),
			Guests:      one("can_join", "forbidden"),
			Visibility:  one("shared", "joined"),
			StateEvents: random.Int64N(5),
			Type:        one("m.space"),
		})
	}
	return made
}

func prepareRooms(ctx context.Context, url string) error {
	if err := prepare(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	for _, r := range listedRooms() {
		batch.Queue(`INSERT INTO rooms (room_id, is_public, creator, room_version) VALUES ($1, $2, $3, $4)`,
			r.ID, r.Public, r.Creator, r.Version)
		batch.Queue(`
			INSERT INTO room_stats_state (room_id, name, canonical_alias, join_rules, history_visibility, encryption,
				guest_access, is_federatable, room_type)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			r.ID, r.Name, r.Alias, r.JoinRules, r.Visibility, r.Encryption, r.Guests, r.Federatable, r.Type)
		batch.Queue(`
			INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members,
				banned_members, local_users_in_room, completed_delta_stream_id)
			VALUES ($1, $2, $3, 0, 0, 0, $4, 1)`, r.ID, r.StateEvents, r.Joined, r.JoinedLocal)
	}
	// Rooms that are not in all three tables are not listed.
	batch.Queue(`INSERT INTO rooms (room_id) VALUES ('!lone:x')`)
	batch.Queue(`INSERT INTO room_stats_state (room_id, name) VALUES ('!ghost:x', 'pure')`)
	return errors.Join(conn.SendBatch(ctx, &batch).Close(), conn.Close(ctx))
}

func setupRooms(t *testing.T) *bundle {
	t.Helper()
	db, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, devstacktest.Database(t, "rooms", prepareRooms), schema.API), postgres.Options{MaxConnections: 4})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return setupOn(t, db, httpapi.Options{})
}

// A roomList is an answer. What it does not have is nil.
type roomList struct {
	Rooms     []listedRoom `json:"rooms"`
	Offset    *int64       `json:"offset"`
	Total     *int64       `json:"total_rooms"`
	NextBatch *int64       `json:"next_batch"`
	PrevBatch *int64       `json:"prev_batch"`
}

func (b *bundle) requireRooms(t *testing.T, parameters url.Values) roomList {
	t.Helper()
	r := b.send(t, "GET", rooms+"?"+parameters.Encode(), "")
	require.Equal(t, 200, r.status, r.body)
	var list roomList
	require.NoError(t, json.Unmarshal([]byte(r.body), &list), r.body)
	require.NotNil(t, list.Rooms)
	return list
}

func idsOf(rooms []listedRoom) []string {
	ids := []string{}
	for _, room := range rooms {
		ids = append(ids, room.ID)
	}
	return ids
}

// nullsLast compares as PostgreSQL does in ascending order.
func nullsLast[T any](compare func(a, b T) int) func(a, b *T) int {
	return func(a, b *T) int {
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return 1
		case b == nil:
			return -1
		}
		return compare(*a, *b)
	}
}

// sorted is what order_by promises, said in Go.
func sorted(rooms []listedRoom, order, direction string) []listedRoom {
	texts := nullsLast(strings.Compare)
	flags := nullsLast(func(a, b bool) int {
		return cmp.Compare(map[bool]int{true: 1}[a], map[bool]int{true: 1}[b])
	})
	compare := map[string]func(a, b listedRoom) int{
		"name":                 func(a, b listedRoom) int { return texts(a.Name, b.Name) },
		"canonical_alias":      func(a, b listedRoom) int { return texts(a.Alias, b.Alias) },
		"joined_members":       func(a, b listedRoom) int { return cmp.Compare(a.Joined, b.Joined) },
		"joined_local_members": func(a, b listedRoom) int { return cmp.Compare(a.JoinedLocal, b.JoinedLocal) },
		"version":              func(a, b listedRoom) int { return texts(a.Version, b.Version) },
		"creator":              func(a, b listedRoom) int { return texts(a.Creator, b.Creator) },
		"encryption":           func(a, b listedRoom) int { return texts(a.Encryption, b.Encryption) },
		"federatable":          func(a, b listedRoom) int { return flags(a.Federatable, b.Federatable) },
		"public":               func(a, b listedRoom) int { return flags(a.Public, b.Public) },
		"join_rules":           func(a, b listedRoom) int { return texts(a.JoinRules, b.JoinRules) },
		"guest_access":         func(a, b listedRoom) int { return texts(a.Guests, b.Guests) },
		"history_visibility":   func(a, b listedRoom) int { return texts(a.Visibility, b.Visibility) },
		"state_events":         func(a, b listedRoom) int { return cmp.Compare(a.StateEvents, b.StateEvents) },
	}
	compare["alphabetical"], compare["size"] = compare["name"], compare["joined_members"]
	descending := slices.Contains([]string{"joined_members", "size", "joined_local_members", "version", "state_events"}, order)
	if direction == "b" {
		descending = !descending
	}
	result := slices.Clone(rooms)
	slices.SortFunc(result, func(a, b listedRoom) int {
		ascending := cmp.Or(compare[order](a, b), strings.Compare(a.ID, b.ID))
		if descending {
			return -ascending
		}
		return ascending
	})
	return result
}

func TestRoomListOrders(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	for _, order := range []string{
		"alphabetical", "size", "name", "canonical_alias", "joined_members", "joined_local_members", "version", "creator",
		"encryption", "federatable", "public", "join_rules", "guest_access", "history_visibility", "state_events",
	} {
		for _, direction := range []string{"f", "b"} {
			list := b.requireRooms(t, url.Values{"order_by": {order}, "dir": {direction}, "limit": {"1000"}})
			require.Equal(t, idsOf(sorted(listedRooms(), order, direction)), idsOf(list.Rooms), "%s %s", order, direction)
			require.EqualValues(t, len(list.Rooms), *list.Total)
		}
	}
	// What is not said is f, name and 100.
	require.Equal(t, idsOf(sorted(listedRooms(), "name", "f")), idsOf(b.requireRooms(t, nil).Rooms))
	require.Equal(t, idsOf(sorted(listedRooms(), "size", "f")), idsOf(b.requireRooms(t, url.Values{"order_by": {"size", "no word"}}).Rooms),
		"the first value counts")
}

func TestRoomListShowsAllKeys(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	none := false
	for _, room := range b.requireRooms(t, nil).Rooms {
		want := listedRooms()[slices.IndexFunc(listedRooms(), func(r listedRoom) bool { return r.ID == room.ID })]
		want.Federatable, want.Public = cmp.Or(want.Federatable, &none), cmp.Or(want.Public, &none)
		require.Equal(t, want, room)
	}
	r := b.send(t, "GET", rooms+"?search_term=!null:x", "")
	requireJSON(t, r, 200, `{"offset": 0, "total_rooms": 1, "rooms": [{
		"room_id": "!null:x", "name": null, "canonical_alias": null, "joined_members": 0, "joined_local_members": 0,
		"version": "10", "creator": null, "encryption": null, "federatable": false, "public": false, "join_rules": null,
		"guest_access": null, "history_visibility": null, "state_events": 0, "room_type": null}]}`)
}

func TestRoomListPages(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	all := idsOf(sorted(listedRooms(), "name", "f"))
	total := int64(len(all))
	const most = "9223372036854775807"
	for parameters, want := range map[string]struct {
		ids        []string
		offset     int64
		next, prev *int64
	}{
		"":                                 {all, 0, nil, nil},
		"limit=5":                          {all[:5], 0, new(int64(5)), nil},
		"limit=5&from=5":                   {all[5:10], 5, new(int64(10)), new(int64(0))},
		"limit=5&from=3":                   {all[3:8], 3, new(int64(8)), new(int64(0))},
		"limit=5&from=+7":                  {all[7:12], 7, new(int64(12)), new(int64(2))},
		"limit=72":                         {all, 0, nil, nil},
		"limit=71":                         {all[:71], 0, new(int64(71)), nil},
		"limit=5&from=67":                  {all[67:], 67, nil, new(int64(62))},
		"limit=5&from=72":                  {nil, 72, nil, new(int64(67))},
		"limit=0":                          {nil, 0, new(int64(0)), nil},
		"limit=0&from=9":                   {nil, 9, new(int64(9)), new(int64(9))},
		"limit=0&from=72":                  {nil, 72, nil, new(int64(72))},
		"limit=" + most:                    {all, 0, nil, nil},
		"limit=" + most + "&from=70":       {all[70:], 70, nil, new(int64(0))},
		"from=" + most:                     {nil, 1<<63 - 1, nil, new(int64(1<<63 - 1 - 100))},
		"from=" + most + "&limit=" + most:  {nil, 1<<63 - 1, nil, new(int64(0))},
		"from=9223372036854775808&limit=1": {nil, 1<<63 - 1, nil, new(int64(1<<63 - 2))},
		"from=1" + strings.Repeat("0", 50): {nil, 1<<63 - 1, nil, new(int64(1<<63 - 1 - 100))},
		"from&limit&dir&order_by":          {all, 0, nil, nil},
		"from=-0&limit=007":                {all[:7], 0, new(int64(7)), nil},
	} {
		r := b.send(t, "GET", rooms+"?"+parameters, "")
		require.Equal(t, 200, r.status, "%s: %s", parameters, r.body)
		var got roomList
		require.NoError(t, json.Unmarshal([]byte(r.body), &got))
		require.Equal(t, append([]string{}, want.ids...), idsOf(got.Rooms), parameters)
		require.Equal(t, &want.offset, got.Offset, parameters)
		require.Equal(t, &total, got.Total, parameters)
		require.Equal(t, want.next, got.NextBatch, parameters)
		require.Equal(t, want.prev, got.PrevBatch, parameters)
	}
	var paged []string
	for next := new(int64(0)); next != nil; {
		page := b.requireRooms(t, url.Values{"from": {fmt.Sprint(*next)}, "limit": {"7"}, "order_by": {"public"}, "dir": {"b"}})
		paged, next = append(paged, idsOf(page.Rooms)...), page.NextBatch
	}
	require.Equal(t, idsOf(sorted(listedRooms(), "public", "b")), paged)
}

func TestRoomSearch(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	random := func(find func(r listedRoom) bool) (ids []string) {
		for _, r := range listedRooms()[12:] {
			if find(r) {
				ids = append(ids, r.ID)
			}
		}
		return ids
	}
	is := func(value *string, words ...string) bool { return value != nil && slices.Contains(words, *value) }
	for term, want := range map[string][]string{
		"100%":                    {"!percent:x"},
		"%":                       {"!percent:x"},
		"%%":                      {},
		"a_b":                     {"!underscore:x"},
		"A_B":                     {"!underscore:x"},
		`a\b`:                     {"!back:x"},
		`\`:                       {"!back:x", "!slash:x"},
		`\\`:                      {"!slash:x"},
		`\%`:                      {},
		`\_`:                      {},
		"a/b":                     {"!slash:x"},
		"'":                       {"!quotes:x"},
		`'; DROP`:                 {},
		`o'brien "SAID"`:          {"!quotes:x"},
		"желтый":                  {},
		"жёлтый":                  {"!small:x"},
		"Жёлтый":                  {"!small:x"}, // what is small already is found
		"ЖЁЛТЫЙ":                  {"!LARGE:x", "!small:x"},
		"room_alias1":             {"!LARGE:x"},
		"ROOM_ALIAS1:X":           {"!LARGE:x"}, // a colon follows
		"#room":                   {},
		"#Room_Alias1:x":          {},
		"#Room_Alias1:x:8448":     {},
		"8448":                    {},
		"no alias":                {},
		"<B>&AMP;":                {"!tags:x"},
		"🎉":                       {"!tags:x"},
		"\t\n":                    {"!tags:x"},
		"!LARGE:x":                {"!LARGE:x"},
		"!large:x":                {},
		"!LARGE:":                 {},
		"LARGE":                   {},
		"!lone:x":                 {},
		"\x00":                    {},
		"pure\x00":                {},
		strings.Repeat("x", 9000): {},
		"pure": append(random(func(r listedRoom) bool { return is(r.Name, "pure", "Pure") || is(r.Alias, "#pure:y") }),
			"!number:x", "!percent:x"),
		"_": append(random(func(r listedRoom) bool { return is(r.Name, "_") }), "!underscore:x", "!LARGE:x"),
		"É": random(func(r listedRoom) bool { return is(r.Name, "é") }),
	} {
		got := b.requireRooms(t, url.Values{"search_term": {term}})
		require.ElementsMatch(t, want, idsOf(got.Rooms), "%.40q", term)
		require.EqualValues(t, len(want), *got.Total, "%.40q", term)
		for name, holds := range map[string]func(listedRoom) bool{
			"public_rooms=true":                   func(r listedRoom) bool { return r.Public != nil && *r.Public },
			"public_rooms=false":                  func(r listedRoom) bool { return r.Public != nil && !*r.Public },
			"empty_rooms=true":                    func(r listedRoom) bool { return r.Joined == 0 },
			"empty_rooms=false":                   func(r listedRoom) bool { return r.Joined != 0 },
			"public_rooms=true&empty_rooms=false": func(r listedRoom) bool { return r.Public != nil && *r.Public && r.Joined != 0 },
		} {
			filters, err := url.ParseQuery(name)
			require.NoError(t, err)
			filters.Set("search_term", term)
			var both []string
			for _, r := range listedRooms() {
				if slices.Contains(want, r.ID) && holds(r) {
					both = append(both, r.ID)
				}
			}
			require.ElementsMatch(t, both, idsOf(b.requireRooms(t, filters).Rooms), "%.40q and %s", term, name)
		}
	}
	// An escape that is none is part of the term, and the others are not.
	require.Equal(t, "!percent:x", b.requireRooms(t, url.Values{"search_term": {"100% p"}}).Rooms[0].ID)
	r := b.send(t, "GET", rooms+"?search_term=100%+p%75re", "")
	require.Contains(t, r.body, `"total_rooms":1}`)
	require.Contains(t, r.body, `"!percent:x"`)
}

func TestRoomListRefusals(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	const (
		orders = "Query parameter 'order_by' must be one of ['alphabetical', 'size', 'name', 'canonical_alias', " +
			"'joined_members', 'joined_local_members', 'version', 'creator', 'encryption', 'federatable', 'public', " +
			"'join_rules', 'guest_access', 'history_visibility', 'state_events']"
		directions = "Query parameter 'dir' must be one of ['b', 'f']"
		booleans   = "Boolean query parameter '%s' must be one of ['true', 'false']"
		empty      = "search_term cannot be an empty string"
	)
	for parameters, want := range map[string][2]string{
		"from=x":                     {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=":                      {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=1.0":                   {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=1e3":                   {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=0x1":                   {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=%D9%A1":                {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=1%00":                  {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"from=-1":                    {"M_INVALID_PARAM", "Query parameter from must be a positive integer."},
		"from=-99999999999999999999": {"M_INVALID_PARAM", "Query parameter from must be a positive integer."},
		"limit=-1":                   {"M_INVALID_PARAM", "Query parameter limit must be a positive integer."},
		"limit=ten&from=x":           {"M_INVALID_PARAM", "Query parameter from must be an integer"},
		"limit=ten":                  {"M_INVALID_PARAM", "Query parameter limit must be an integer"},
		"order_by=":                  {"M_INVALID_PARAM", orders},
		"order_by=Name":              {"M_INVALID_PARAM", orders},
		"order_by=room_id":           {"M_INVALID_PARAM", orders},
		"order_by=name;":             {"M_INVALID_PARAM", orders},
		"order_by=n%C3%A4me":         {"M_UNKNOWN", "Query parameter 'order_by' must be ascii"},
		"order_by=%FF":               {"M_UNKNOWN", "Query parameter 'order_by' must be ascii"},
		"search_term=":               {"M_INVALID_PARAM", empty},
		"search_term=&search_term=x": {"M_INVALID_PARAM", empty},
		"search_term=%FF":            {"M_UNKNOWN", "Query parameter 'search_term' must be utf-8"},
		"dir=x":                      {"M_INVALID_PARAM", directions},
		"dir=":                       {"M_INVALID_PARAM", directions},
		"dir=F":                      {"M_INVALID_PARAM", directions},
		"public_rooms=":              {"M_INVALID_PARAM", fmt.Sprintf(booleans, "public_rooms")},
		"public_rooms=True":          {"M_INVALID_PARAM", fmt.Sprintf(booleans, "public_rooms")},
		"public_rooms=1":             {"M_INVALID_PARAM", fmt.Sprintf(booleans, "public_rooms")},
		"empty_rooms=no":             {"M_INVALID_PARAM", fmt.Sprintf(booleans, "empty_rooms")},
		"empty_rooms=%C3%A4":         {"M_INVALID_PARAM", fmt.Sprintf(booleans, "empty_rooms")},
		"search_term=&order_by=x":    {"M_INVALID_PARAM", orders},
		"dir=x&search_term=":         {"M_INVALID_PARAM", empty},
		"empty_rooms=x&dir=x":        {"M_INVALID_PARAM", directions},
	} {
		requireJSON(t, b.send(t, "GET", rooms+"?"+parameters, ""), 400, refusal(want[0], want[1]))
	}
	for path, method := range map[string]string{
		rooms:                                 "POST",
		rooms + "/!r:x/members":               "DELETE",
		rooms + "/!r:x/state":                 "PUT",
		rooms + "/!r:x/block":                 "DELETE",
		rooms + "/!r:x/forward_extremities":   "PUT",
		rooms + "/!r:x/timestamp_to_event":    "POST",
		"/_synapse/admin/v1/scheduled_tasks":  "DELETE",
		"/_synapse/admin/v1/scheduled_tasks?": "PUT",
	} {
		requireJSON(t, b.send(t, method, path, "{}"), 405, unrecognized)
	}
	for _, path := range []string{
		"/!r:x/", "/!r:x/x", "/!r:x/members/", "/!r:x/state/x", "//", "/!r:x/block/x", "/%21r:x%2Fmembers/x",
	} {
		requireJSON(t, b.send(t, "GET", rooms+path, ""), 404, unrecognized)
	}
}

// Nobody but server admins learns anything, and what they ask is not judged.
func TestRoomsAreForAdmins(t *testing.T) {
	t.Parallel()
	b := setupRooms(t)
	for _, request := range []string{
		"GET " + rooms + "?from=x", "GET " + rooms + "/!percent:x", "GET " + rooms + "/!percent:x/members",
		"GET " + rooms + "/!percent:x/state", "GET " + rooms + "/junk/block", "PUT " + rooms + "/junk/block",
		"GET " + rooms + "/junk/forward_extremities", "DELETE " + rooms + "/junk/forward_extremities",
		"GET " + rooms + "/!percent:x/timestamp_to_event", "GET /_synapse/admin/v1/scheduled_tasks?status=x",
	} {
		requireJSON(t, b.raw(t, request+" HTTP/1.1\nHost: x\n\n"), 401, refusal("M_MISSING_TOKEN", "Missing access token"))
		requireJSON(t, b.raw(t, request+" HTTP/1.1\nHost: x\nAuthorization: Bearer user\n\n"), 403,
			refusal("M_FORBIDDEN", "You are not a server admin"))
	}
}
