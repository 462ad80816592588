package messages

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who sees a message, in a room of each history visibility, by what the reader
// was at the time. The columns are those of memberships.
var whoSees = map[bool]map[string]string{
	false: { // one that is or was in the room
		"world_readable": "join invite knock leave ban",
		"shared":         "join invite knock leave ban",
		"invited":        "join invite",
		"joined":         "join",
	},
	true: { // a peeker
		"world_readable": "join invite knock leave ban",
		"shared":         "join",
		"invited":        "join invite",
		"joined":         "join",
	},
}

// message is a message that nothing but the room's state hides.
func message(visibility, reader string) eventFacts {
	return eventFacts{
		eventType: "m.room.message", placed: true, visibility: visibility, reader: reader, joinRule: "public",
		membership: "leave", before: "leave", visibilityBefore: "shared",
	}
}

func TestMessagesAreSeenByHistoryVisibilityAndMembership(t *testing.T) {
	t.Parallel()
	for peeker, table := range whoSees {
		require.Len(t, table, len(visibilities))
		for visibility, seers := range table {
			for _, reader := range memberships {
				sees := slices.Contains(strings.Fields(seers), reader)
				for _, isState := range []bool{false, true} {
					s := message(visibility, reader)
					s.isState = isState
					want := decision{show: sees, membership: reader}
					if !sees {
						want.membership = ""
					}
					require.Equal(t, want, decide(s, peeker), "%v %+v", peeker, s)

					// To those who were not in the room the erased have said nothing.
					s.erased = true
					want.redacted = sees && reader != "join"
					require.Equal(t, want, decide(s, peeker), "%v %+v", peeker, s)
				}
			}
		}
	}
}

func TestOwnMembershipIsSeenFromItsBetterSide(t *testing.T) {
	t.Parallel()
	for peeker, table := range whoSees {
		for visibility, seers := range table {
			for _, before := range memberships {
				for _, membership := range memberships {
					for _, erased := range []bool{false, true} {
						s := message(visibility, "knock") // which does not count
						s.eventType, s.isState, s.own, s.erased = "m.room.member", true, true, erased
						s.membership, s.before = membership, before

						joined := membership == "join" || before == "join"
						ended := membership == "leave" && (before == "join" || before == "invite")
						sees := ended || slices.ContainsFunc(strings.Fields(seers), func(seer string) bool {
							// The one side sees it, and the other is no closer.
							switch seer {
							case "join":
								return joined
							case "invite":
								return !joined && (membership == "invite" || before == "invite")
							default: // where the far see, all do
								return true
							}
						})
						want := decision{show: sees}
						if sees {
							want.membership = membership
							want.redacted = erased && (!joined || ended)
						}
						require.Equal(t, want, decide(s, peeker), "peeker %v, before %s: %+v", peeker, before, s)
					}
				}
			}
		}
	}
}

func TestChangesOfVisibilityAreSeenFromTheirLaxerSide(t *testing.T) {
	t.Parallel()
	for peeker, table := range whoSees {
		for after, seers := range table {
			for before := range table {
				for _, reader := range memberships {
					for _, erased := range []bool{false, true} {
						s := message(after, reader)
						s.eventType, s.isState, s.visibilityBefore, s.erased = "m.room.history_visibility", true, before, erased
						sees := slices.Contains(strings.Fields(seers), reader)
						if !erased {
							// Only what lets in those who were never there counts of the old one.
							sees = sees || before == "world_readable" || before == "shared" && !peeker
						}
						require.Equal(t, sees, decide(s, peeker).show, "peeker %v, before %s: %+v", peeker, before, s)
					}
				}
			}
		}
	}
}

func TestWhatIsHiddenFromEverybody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hide            func(*eventFacts)
		message, member bool // is hidden
	}{
		"soft-failed":   {func(s *eventFacts) { s.softFailed = true }, true, true},
		"a dummy":       {func(s *eventFacts) { s.eventType = "org.matrix.dummy_event" }, true, true},
		"aliases":       {func(s *eventFacts) { s.eventType = "m.room.aliases" }, true, true},
		"of an ignored": {func(s *eventFacts) { s.ignored = true }, true, false},
		"too old":       {func(s *eventFacts) { s.expired = true }, true, false},
		"outside":       {func(s *eventFacts) { s.placed = false }, true, false},
		"a call":        {func(s *eventFacts) { s.eventType = "m.call.invite" }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := message(worldReadable, "join")
			c.hide(&s)
			require.Equal(t, c.message, !decide(s, false).show)
			require.Equal(t, c.message, decide(s, false) == decision{})
			s.isState, s.own, s.membership = true, true, "join"
			require.Equal(t, c.member, !decide(s, false).show)
		})
	}
	// Outside, it must be one's own.
	s := message(worldReadable, "join")
	s.eventType, s.isState, s.placed = "m.room.member", true, false
	require.Equal(t, decision{}, decide(s, false))
	s.own, s.membership, s.erased = true, "ban", true
	require.Equal(t, decision{show: true, membership: "ban"}, decide(s, false))

	// Calls to those who know each other ring.
	s = message(shared, "join")
	s.eventType = "m.call.invite"
	for rule, rings := range map[string]bool{"public": false, "invite": true, "knock": true, "restricted": true, "": true, "PUBLIC": true} {
		s.joinRule = rule
		require.Equal(t, rings, decide(s, false).show, rule)
	}
}

func TestSettingOf(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	for event, want := range map[string]setting{
		`{"content":{"history_visibility":"invited"}}`:            {invited, "leave", ""},
		`{"content":{"membership":"knock","join_rule":"public"}}`: {shared, "knock", "public"},
		`{"content":{}}`: {shared, "leave", ""},
		`{"content":{"history_visibility":"secret","membership":"JOIN","join_rule":7}}`:     {shared, "leave", ""},
		`{"content":{"history_visibility":["joined"],"membership":null,"join_rule":{}}}`:    {shared, "leave", ""},
		`{"content":{"history_visibility":"joined","HISTORY_VISIBILITY":"world_readable"}}`: {joined, "leave", ""},
		`{"content":{"membership":"ban"},"Content":{"membership":"join"}}`:                  {shared, "ban", ""},
		`{"content":{"membership":"join","membership":"ban"}}`:                              {shared, "ban", ""},
		`{"content":{"history_visibility":"world_readable","x":1e400,"y":"\u0000\ud800"}}`:  {worldReadable, "leave", ""},
		// What cannot be read lets in nobody.
		``:                                   {joined, "leave", ""},
		`null`:                               {joined, "leave", ""},
		`[]`:                                 {joined, "leave", ""},
		`{}`:                                 {joined, "leave", ""},
		`{"content":null}`:                   {joined, "leave", ""},
		`{"content":"history_visibility"}`:   {joined, "leave", ""},
		`{"content":{"membership":"join"}`:   {joined, "leave", ""},
		`{"content":{"membership":"join"}}}`: {joined, "leave", ""},
		`{"content":{"history_visibility":"shared","x":` + deep + `}}`: {joined, "leave", ""},
	} {
		require.Equal(t, want, settingOf(json.RawMessage(event)), "%.100s", event)
	}
}

func TestSoftFailed(t *testing.T) {
	t.Parallel()
	for metadata, want := range map[string]bool{
		``: false, `{}`: false, `[]`: false, `{"device_id":"soft"}`: false,
		`{"soft_failed":true}`: true, `{"soft_failed": true, "policy_server_spammy": true}`: true, `{"soft_failed":1}`: true,
		`{"soft_failed":false}`: false, `{"soft_failed":null}`: false, `{"txn_id":"soft_failed"}`: false,
		`{"soft\u005ffailed":true}`: true, `{"txn_id":"\n"}`: false,
		`{"soft_failed":true`: true, `"soft_failed"`: true, // whatever it is
	} {
		require.Equal(t, want, softFailed(json.RawMessage(metadata)), metadata)
	}
}

func TestAdminsMayWantSoftFailedEvents(t *testing.T) {
	t.Parallel()
	const plain, spammy = `{"soft_failed":true}`, `{"soft_failed":true,"policy_server_spammy":true}`
	for config, want := range map[string][2]bool{
		``:                                   {false, false},
		`{}`:                                 {false, false},
		`{"return_soft_failed_events":true}`: {true, true},
		`{"return_soft_failed_events":1}`:    {false, false},
		`{"return_policy_server_spammy_events":true}`:                                  {false, true},
		`{"return_soft_failed_events":true,"return_policy_server_spammy_events":true}`: {true, true},
		`{"return_soft_failed_events":true`:                                            {false, false},
	} {
		require.Equal(t, want, [2]bool{
			wantsSoftFailed(json.RawMessage(config), json.RawMessage(plain)),
			wantsSoftFailed(json.RawMessage(config), json.RawMessage(spammy)),
		}, config)
	}
}
