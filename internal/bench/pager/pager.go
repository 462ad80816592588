package pager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/matrix"
)

// Events is the number of events of a page.
const Events = 100

const (
	// timeout is the longest time of a page.
	timeout = time.Minute

	// maxSize is the size of the largest page, in bytes.
	maxSize = 64 << 20
)

// A Pager reads a page backwards from a place. It returns where the next page begins,
// and whether there is one.
type Pager func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error)

// Bare reads pages with a query that only reads the events.
func Bare(pool *pgxpool.Pool, room string) Pager {
	return func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error) {
		rows, err := pool.Query(ctx, `
			SELECT e.event_id, e.type, e.sender, e.state_key, e.topological_ordering, e.stream_ordering, e.origin_server_ts,
			       j.json, j.internal_metadata, j.format_version
			FROM events e JOIN event_json j ON j.event_id = e.event_id
			WHERE e.room_id = $1 AND NOT e.outlier AND (e.topological_ordering, e.stream_ordering) <= ($2, $3)
			ORDER BY e.topological_ordering DESC, e.stream_ordering DESC
			LIMIT $4`, room, at.Topological, at.Stream, Events)
		if err != nil {
			return next, false, err
		}
		var id, kind string
		var sender, key, text, metadata *string
		var origin *int64
		var format *int
		_, err = pgx.ForEachRow(rows, []any{&id, &kind, &sender, &key, &next.Topological, &next.Stream, &origin, &text, &metadata, &format},
			func() error { more = true; return nil })
		next.Stream--
		return next, more, err
	}
}

// AdminPath is the path of the pages of a room for server admins.
func AdminPath(room string) string {
	return "/_synapse/admin/v1/rooms/" + url.PathEscape(room) + "/messages"
}

// MemberPath is the path of the pages of a room for its members.
func MemberPath(room string) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages"
}

// HTTP reads pages from an endpoint. Of a page it parses only where the page
// ends. It keeps its connections open.
func HTTP(endpoint, token string) Pager {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: timeout}
	return func(ctx context.Context, at matrix.Token) (next matrix.Token, more bool, err error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet,
			fmt.Sprintf("%s?dir=b&limit=%d&from=%s", endpoint, Events, at), nil)
		if err != nil {
			return next, false, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(request)
		if err != nil {
			return next, false, err
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, maxSize))
		_ = response.Body.Close() // it has been read
		switch {
		case err != nil:
			return next, false, fmt.Errorf("read a page: %w", err)
		case response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusGatewayTimeout:
			return next, false, ErrBusy
		case response.StatusCode != http.StatusOK:
			return next, false, fmt.Errorf("a page was refused with status %d", response.StatusCode)
		}
		return endOf(body)
	}
}

var (
	errNoPage = errors.New("the response is not a page")

	// ErrBusy is returned for a reader that waited too long, and was told to try again.
	ErrBusy = errors.New("the room is busy")
)

// endOf returns where a page ends. The key "end" is the last key of a page, except for
// state.
func endOf(body []byte) (next matrix.Token, more bool, err error) {
	const key = `"end":`
	i := bytes.LastIndex(body, []byte(key))
	if i < 0 {
		if !bytes.Contains(body, []byte(`"chunk":`)) {
			err = errNoPage
		}
		return next, false, err
	}
	var text string
	if err := json.NewDecoder(bytes.NewReader(body[i+len(key):])).Decode(&text); err != nil {
		return next, false, fmt.Errorf("%w: %w", errNoPage, err)
	}
	token, err := matrix.ParsePageToken(text)
	if err != nil {
		return next, false, err
	}
	next, more = token.Historic()
	if !more {
		err = errNoPage
	}
	return next, more, err
}
