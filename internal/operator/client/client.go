package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lethe/internal/operator"
	"lethe/internal/wire"
)

const (
	// maxAnswer is the size of the largest answer that is read, in bytes.
	maxAnswer = 64 << 20

	// maxError is the size of the largest error body that is read, in bytes.
	maxError = 64 << 10

	// requestTimeout is the longest time of a request. A hold waits up to 20 s for the
	// batch in progress.
	requestTimeout = time.Minute

	// planTimeout is the longest time of a plan that counts every row.
	planTimeout = time.Hour

	// dialTimeout is the longest time to connect.
	dialTimeout = 10 * time.Second
)

// root is the path of the API.
const root = "/_lethe/v1/"

// ErrAnswer is returned for an answer that is not one of this API's: the URL is wrong, or
// a proxy has answered.
var ErrAnswer = errors.New("the answer is not one of Lethe's API")

// Options are the options of a Client.
type Options struct {
	// Token is the access token of a server admin. Defaults to "", no token.
	Token string

	// Transport sends the requests. Defaults to HTTP, with the proxies of the environment.
	Transport http.RoundTripper

	// URL is where the API is, such as http://127.0.0.1:8470. It may have a path. It has
	// no default.
	URL string
}

// A Client makes requests. It is safe for concurrent use.
type Client struct {
	base, token string
	http        *http.Client
}

// New returns a Client. It fails if the URL or the token cannot be one.
func New(options Options) (*Client, error) {
	parsed, err := url.Parse(options.URL)
	switch {
	case err != nil:
		return nil, errors.New("the URL of the API is not a URL") // the error would repeat it
	case parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "":
		return nil, errors.New("the URL of the API must begin with http:// or https:// and name a host")
	case parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "":
		return nil, errors.New("the URL of the API must not have a user, a query or a fragment")
	case strings.ContainsFunc(options.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("the access token has a character that no token has")
	}
	if options.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSHandshakeTimeout = dialTimeout
		options.Transport = transport
	}
	return &Client{
		base:  strings.TrimRight(parsed.String(), "/"),
		token: options.Token,
		http: &http.Client{
			Transport: options.Transport,
			// A redirect could lead to another server, and would turn a POST into a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A request is one request of the API.
type request struct {
	method string

	// path has its parts escaped, and no leading slash.
	path  string
	query url.Values

	// body is sent as JSON, unless it is nil.
	body any

	// timeout defaults to requestTimeout.
	timeout time.Duration
}

// path joins the parts of a path, and escapes each.
func path(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, part := range parts {
		escaped[i] = url.PathEscape(part)
	}
	return strings.Join(escaped, "/")
}

// send sends a request and returns the response, whose body the caller closes.
func (c *Client) send(ctx context.Context, r request, header http.Header) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	target := c.base + root + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", wire.CommandAgent)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the API: %w", err)
	}
	return response, nil
}

// do sends a request, and decodes the answer into the value. An error of the API is a
// [*wire.Error].
func (c *Client) do(ctx context.Context, r request, into any) error {
	timeout := r.timeout
	if timeout == 0 {
		timeout = requestTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	response, err := c.send(ctx, r, nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case len(body) > maxAnswer:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrAnswer, maxAnswer)
	case response.StatusCode/100 != 2:
		return refusal(response.StatusCode, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// refusal returns the error that a response of the status says.
func refusal(status int, body []byte) error {
	refused := &wire.Error{}
	if len(body) > maxError || json.Unmarshal(body, refused) != nil || refused.Code == "" {
		return fmt.Errorf("%w: the status is %d %s", ErrAnswer, status, http.StatusText(status))
	}
	refused.Status = status
	return refused
}

// A JobQuery selects jobs of a list. An empty field matches all.
type JobQuery struct {
	// States, Kinds, Room and Requester are those of the jobs. Defaults to all.
	States, Kinds   []string
	Room, Requester string

	// Since is the time since when the jobs were requested, in Unix milliseconds. Defaults
	// to 0, the beginning.
	Since int64

	// Limit bounds the page. Defaults to 0, the default of the API.
	Limit int

	// From is the next of the page before. Defaults to "", the first page.
	From string
}

// Jobs returns a page of jobs, the newest first.
func (c *Client) Jobs(ctx context.Context, q JobQuery) (page operator.Jobs, err error) {
	query := url.Values{}
	for name, values := range map[string][]string{"state": q.States, "kind": q.Kinds} {
		if len(values) > 0 {
			query[name] = values
		}
	}
	for name, value := range map[string]string{"room": q.Room, "requester": q.Requester, "from": q.From} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range map[string]int64{"since": q.Since, "limit": int64(q.Limit)} {
		if value != 0 {
			query.Set(name, strconv.FormatInt(value, 10))
		}
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "jobs", query: query}, &page)
	return page, err
}

// Job returns a job, with its log.
func (c *Client) Job(ctx context.Context, id string) (job operator.Job, err error) {
	err = c.do(ctx, request{method: http.MethodGet, path: path("jobs", id)}, &job)
	return job, err
}

// Do does a verb to a job. A refusal is an Outcome that is not done, and no error. It has no
// more of the job than its id.
func (c *Client) Do(ctx context.Context, verb, id string, body operator.VerbRequest) (outcome operator.Outcome, err error) {
	err = c.do(ctx, request{method: http.MethodPost, path: path("jobs", id, verb), body: body}, &outcome)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		// The text is "The job cannot be cancelled: ", and the reason.
		_, why, found := strings.Cut(refused.Text, ": ")
		if !found {
			why = refused.Text
		}
		outcome = operator.Outcome{Job: operator.Job{ID: id, Deleted: map[string]int64{}}, Refusal: why}
		err = nil
	}
	return outcome, err
}

// DoAll does a verb to all jobs that match.
func (c *Client) DoAll(ctx context.Context, body operator.BulkRequest) (outcomes operator.Outcomes, err error) {
	err = c.do(ctx, request{method: http.MethodPost, path: "jobs/bulk", body: body}, &outcomes)
	return outcomes, err
}

// Plan returns what a job would do, as the API describes it.
func (c *Client) Plan(ctx context.Context, body operator.PlanRequest) (plan json.RawMessage, err error) {
	r := request{method: http.MethodPost, path: "plans", body: body}
	if body.Exact {
		r.timeout = planTimeout
	}
	err = c.do(ctx, r, &plan)
	return plan, err
}

// Purge requests a purge of a room's history.
func (c *Client) Purge(ctx context.Context, body operator.PurgeRequest) (operator.Accepted, error) {
	return c.accept(ctx, "purges", body)
}

// Delete requests the shutdown of a room, and its delete.
func (c *Client) Delete(ctx context.Context, body operator.DeleteRequest) (operator.Accepted, error) {
	return c.accept(ctx, "deletes", body)
}

// Sweep requests a sweep.
func (c *Client) Sweep(ctx context.Context, body operator.SweepRequest) (operator.Accepted, error) {
	return c.accept(ctx, "sweeps", body)
}

func (c *Client) accept(ctx context.Context, path string, body any) (accepted operator.Accepted, err error) {
	err = c.do(ctx, request{method: http.MethodPost, path: path, body: body}, &accepted)
	if err == nil && accepted.ID == "" {
		err = fmt.Errorf("%w: it has no id", ErrAnswer)
	}
	return accepted, err
}

// Rooms returns a page of the largest rooms, as the API describes it.
func (c *Client) Rooms(ctx context.Context, limit int, from string) (page json.RawMessage, err error) {
	query := url.Values{}
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	if from != "" {
		query.Set("from", from)
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "rooms", query: query}, &page)
	return page, err
}

// Room returns what a room has in the database, as the API describes it.
func (c *Client) Room(ctx context.Context, room string) (footprint json.RawMessage, err error) {
	err = c.do(ctx, request{method: http.MethodGet, path: path("rooms", room)}, &footprint)
	return footprint, err
}

// Fleet returns the limits and the workers of the fleet.
func (c *Client) Fleet(ctx context.Context) (fleet operator.Fleet, err error) {
	err = c.do(ctx, request{method: http.MethodGet, path: "fleet"}, &fleet)
	return fleet, err
}

// SetLimit sets both limits of a kind of job. A nil limit is that of the settings.
func (c *Client) SetLimit(ctx context.Context, kind string, rowsPerSecond, jobs *int) (limit operator.Limit, err error) {
	err = c.do(ctx, request{
		method: http.MethodPut, path: path("fleet", kind),
		body: map[string]*int{"rows_per_second": rowsPerSecond, "jobs": jobs},
	}, &limit)
	return limit, err
}

// Brake returns what slows jobs down.
func (c *Client) Brake(ctx context.Context) (brake operator.Brake, err error) {
	err = c.do(ctx, request{method: http.MethodGet, path: "brake"}, &brake)
	return brake, err
}

// SetBrake sets both limits of a signal. A nil limit does not limit.
func (c *Client) SetBrake(ctx context.Context, signal string, body operator.BrakeRequest) (set operator.BrakeSignal, err error) {
	err = c.do(ctx, request{method: http.MethodPut, path: path("brake", signal), body: body}, &set)
	return set, err
}

// ResetBrake gives a signal its default limits again.
func (c *Client) ResetBrake(ctx context.Context, signal string) (set operator.BrakeSignal, err error) {
	err = c.do(ctx, request{method: http.MethodDelete, path: path("brake", signal)}, &set)
	return set, err
}

// Pauses returns all pauses.
func (c *Client) Pauses(ctx context.Context) (pauses operator.Pauses, err error) {
	err = c.do(ctx, request{method: http.MethodGet, path: "pauses"}, &pauses)
	return pauses, err
}

// SetPause pauses a job, a room, a kind, or all. A second call replaces the first.
func (c *Client) SetPause(ctx context.Context, scope, value string, body operator.VerbRequest) (pause operator.Pause, err error) {
	err = c.do(ctx, request{method: http.MethodPut, path: path("pauses", scope, value), body: body}, &pause)
	return pause, err
}

// LiftPause ends a pause.
func (c *Client) LiftPause(ctx context.Context, scope, value string) (pause operator.Pause, err error) {
	err = c.do(ctx, request{method: http.MethodDelete, path: path("pauses", scope, value)}, &pause)
	return pause, err
}

// Holds returns the holds of all rooms, with those that were lifted if released is set.
func (c *Client) Holds(ctx context.Context, released bool) (holds operator.Holds, err error) {
	query := url.Values{}
	if released {
		query.Set("released", "true")
	}
	err = c.do(ctx, request{method: http.MethodGet, path: "holds", query: query}, &holds)
	return holds, err
}

// SetHold holds a room.
func (c *Client) SetHold(ctx context.Context, room, reason string) (hold operator.Hold, err error) {
	body := map[string]string{"reason": reason}
	err = c.do(ctx, request{method: http.MethodPut, path: path("holds", room), body: body}, &hold)
	return hold, err
}

// LiftHold lifts the hold of a room.
func (c *Client) LiftHold(ctx context.Context, room string) (hold operator.Hold, err error) {
	err = c.do(ctx, request{method: http.MethodDelete, path: path("holds", room)}, &hold)
	return hold, err
}
