package homeserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// ForHistoryHeader is set in the requests of [Client.OlderHistory]. If one comes
// back to a Lethe, the homeserver's URL leads there, and it must not ask again.
const ForHistoryHeader = "X-Lethe-For-History"

// mostHistory bounds how much of a page is read before it is thrown away, in
// bytes. One that is longer cost the homeserver its work already.
const mostHistory = 16 << 20

// OlderHistory asks the homeserver once for a page of the room's history before
// the page token, as a reader does, so that it gets from other servers what it
// lacks. When it returns nil, what came is in the database; the page itself is
// thrown away. User is whom an application service's access token speaks for, ""
// with any other token. The error wraps [ErrUnavailable] or is an [Error].
func (c *Client) OlderHistory(ctx context.Context, token, user, room, before string, limit int) error {
	const operation = "ask for older history"
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	if token == "" {
		return errors.New(operation + ": there is no access token")
	}
	request, err := c.request(ctx, call{
		method: http.MethodGet, path: clientAPI("rooms", room, "messages"), token: token, user: user,
		query: url.Values{"dir": {"b"}, "from": {before}, "limit": {strconv.Itoa(limit)}},
	}, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	request.Header.Set(ForHistoryHeader, "1")
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", operation, ErrUnanswered, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		// What is left of a longer one goes with the connection.
		if _, err := io.CopyN(io.Discard, response.Body, mostHistory); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w: %w", operation, ErrUnanswered, err)
		}
		return nil
	}
	var answer bytes.Buffer
	_, _ = io.CopyN(&answer, response.Body, mostAnswer)
	refusal, _ := readRefusal(answer.Bytes(), token)
	if refusal == nil || response.StatusCode < 400 {
		return fmt.Errorf("%s: %w: status %d without a Matrix error", operation, ErrUnavailable, response.StatusCode)
	}
	refusal.Status = response.StatusCode
	return fmt.Errorf("%s: %w", operation, refusal)
}
