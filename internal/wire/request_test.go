package wire

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

type embedded struct {
	Grace string `json:"grace,omitempty"`
}

type body struct {
	Room  string `json:"room_id"`
	Limit int    `json:"limit"`
	Under struct {
		Kinds []string `json:"kind"`
	} `json:"filter"`
	embedded
	hidden int
}

func contextOf(sent string) echo.Context {
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(sent))
	return echo.New().NewContext(request, httptest.NewRecorder())
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	read := body{Limit: 5}
	require.NoError(t, ReadBody(contextOf(""), &read))
	require.Equal(t, body{Limit: 5}, read)
	require.NoError(t, ReadBody(contextOf(`{"room_id":"!a:x","grace":"24h","filter":{"kind":["a"]}}`), &read))
	want := body{Room: "!a:x", Limit: 5, embedded: embedded{Grace: "24h"}}
	want.Under.Kinds = []string{"a"}
	require.Equal(t, want, read)

	for sent, refusal := range map[string]string{
		`{"ROOM_ID":"!b:x"}`:               "400 M_BAD_JSON: Unknown param 'ROOM_ID'",
		`{"hidden":1}`:                     "400 M_BAD_JSON: Unknown param 'hidden'",
		`{"embedded":{}}`:                  "400 M_BAD_JSON: Unknown param 'embedded'",
		`{"limit":"5"}`:                    "400 M_BAD_JSON: Param 'limit' has the wrong type, or an unknown param in it",
		`{"limit":1e99}`:                   "400 M_BAD_JSON: Param 'limit' has the wrong type, or an unknown param in it",
		`{"filter":{"kinds":[]}}`:          "400 M_BAD_JSON: Param 'filter' has the wrong type, or an unknown param in it",
		`{"filter":{"Kind":[]}}`:           "400 M_BAD_JSON: Param 'filter' has the wrong type, or an unknown param in it",
		`[]`:                               "400 M_BAD_JSON: Content must be a JSON object.",
		`{`:                                "400 M_NOT_JSON: Content not JSON.",
		"{\"room_id\":\"\xff\"}":           "400 M_NOT_JSON: Content not JSON.",
		strings.Repeat(" ", MaxBody) + " ": "413 M_TOO_LARGE: Request content is too large",
	} {
		read := body{}
		require.EqualError(t, ReadBody(contextOf(sent), &read), refusal, sent[:min(len(sent), 40)])
	}
	_ = read.hidden
}
