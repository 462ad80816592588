package messages

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBundlesAreOfThePage has what relates to an event pass the rules of the page: what is
// hidden there is not shown inside another event.
func TestBundlesAreOfThePage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	for _, visibility := range []string{"shared", "joined"} {
		r := h.newRoom("!"+visibility+":x", visibility)
		r.member("@left:x", "join")
		r.say("root")
		root := r.last().ID
		relate := func(relation, text string) string {
			r.requireWrite("m.room.message", "@owner:x", nil,
				`{"body":"`+text+`","m.relates_to":{"rel_type":"`+relation+`","event_id":"`+root+`"}}`)
			h.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`, r.last().ID, root, relation)
			return r.last().ID
		}
		early := map[string]string{}
		late := map[string]string{}
		for _, relation := range []string{"m.thread", "m.replace", "m.reference"} {
			early[relation] = relate(relation, "early")
		}
		r.member("@left:x", "leave")
		for _, relation := range []string{"m.thread", "m.replace", "m.reference"} {
			late[relation] = relate(relation, "late")
		}
		bundlesFor := func(user string) event {
			for _, e := range h.requireEvents(r.id, user) {
				if e["event_id"] == root {
					return relationsOf(e)
				}
			}
			return nil
		}
		requireBundles := func(got event, latest map[string]string, ids ...string) {
			require.Equal(t, latest["m.thread"], got["m.thread"].(event)["latest_event"].(event)["event_id"])
			require.Equal(t, latest["m.replace"], got["m.replace"].(event)["event_id"])
			require.Equal(t, references(ids...), got["m.reference"])
		}
		requireBundles(bundlesFor("@owner:x"), late, early["m.reference"], late["m.reference"])
		requireBundles(bundlesFor("@left:x"), early, early["m.reference"])

		// What was said in the reader's absence stays hidden after the return, if the room
		// hides it.
		r.member("@left:x", "join")
		back := bundlesFor("@left:x")
		if visibility == "shared" {
			requireBundles(back, late, early["m.reference"], late["m.reference"])
		} else {
			require.NotContains(t, back, "m.thread")
			require.NotContains(t, back, "m.replace")
			require.Equal(t, references(early["m.reference"]), back["m.reference"])
		}
	}
}

// A reply of an erased user is shown redacted to readers who joined later, without its
// edits.
func TestErasedSendersReply(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!room:x", "shared")
	r.member("@other:x", "join")
	r.requireWrite("m.room.message", "@other:x", nil, `{"body":"root"}`)
	root := r.last().ID
	parent := root
	for _, relation := range []string{"m.thread", "m.replace"} {
		r.requireWrite("m.room.message", "@owner:x", nil, `{"body":"secret","m.relates_to":{"rel_type":"`+relation+`","event_id":"`+parent+`"}}`)
		h.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`, r.last().ID, parent, relation)
		parent = r.last().ID
	}
	r.member("@new:x", "join")
	latest := func(user string) event {
		for _, e := range h.requireEvents(r.id, user) {
			if e["event_id"] == root {
				return relationsOf(e)["m.thread"].(event)["latest_event"].(event)
			}
		}
		return nil
	}
	require.Equal(t, "secret", latest("@new:x")["content"].(event)["body"])
	require.NotNil(t, relationsOf(latest("@new:x"))["m.replace"])
	h.requireExec(`INSERT INTO erased_users VALUES ('@owner:x')`)
	require.Empty(t, latest("@new:x")["content"])
	require.Nil(t, relationsOf(latest("@new:x")))
	require.Equal(t, "secret", latest("@other:x")["content"].(event)["body"])
}
