package operator_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
)

func TestHolds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const path = "/holds/" + room
	l.refused(404, "The room !room:x is not held", "GET", path, "")
	l.refused(404, "The room !room:x is not held", "DELETE", path, "")
	require.Empty(t, get[operator.Holds](l, "GET", "/holds", "").Holds)

	placed := get[operator.Hold](l, "PUT", path, `{"reason":"case 7"}`)
	require.Equal(t, "case 7", placed.Reason)
	require.Equal(t, admin, placed.PlacedBy)
	require.Positive(t, placed.PlacedAt)
	require.Empty(t, placed.ReleasedBy)
	require.Equal(t, placed, get[operator.Hold](l, "PUT", path, `{"reason":"case 7"}`), "a second call")
	l.refused(409, "The room is held for another reason: case 7", "PUT", path, `{"reason":"case 8"}`)
	require.Equal(t, placed, get[operator.Hold](l, "GET", path, ""))
	require.Equal(t, []operator.Hold{placed}, get[operator.Holds](l, "GET", "/holds", "").Holds)

	released := get[operator.Hold](l, "DELETE", path, "")
	require.Equal(t, admin, released.ReleasedBy)
	require.Positive(t, released.ReleasedAt)
	l.refused(404, "The room !room:x is not held", "DELETE", path, "")
	require.Empty(t, get[operator.Holds](l, "GET", "/holds", "").Holds)
	require.Equal(t, []operator.Hold{released}, get[operator.Holds](l, "GET", "/holds?released=true", "").Holds)
}

func TestHoldRefusals(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const path = "/holds/" + room
	for body, text := range map[string]string{
		"": "Missing params: ['reason']", "[]": "must be a JSON object", "{}": "Missing params: ['reason']",
		`{"reason":null}`: "Missing params: ['reason']", `{"reason":""}`: "Missing params: ['reason']", `{"reason":7}`: "wrong type",
		`{"reason":"` + strings.Repeat("ü", 1001) + `"}`: "1 to 1000 characters", `{"reason":"a\u0000"}`: "zero byte", `{"why":"r"}`: "Unknown param 'why'",
	} {
		l.refused(400, text, "PUT", path, body)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		l.refused(400, "room is not a legal room ID", method, "/holds/room", `{"reason":"r"}`)
	}
	l.refused(400, "must be one of ['true', 'false']", "GET", "/holds?released=soup", "")
	require.NotEmpty(t, get[operator.Hold](l, "PUT", path, `{"reason":"`+strings.Repeat("ü", 1000)+`"}`).Reason)
}
