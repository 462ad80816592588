package homeserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lethe/internal/wait"
)

// ErrUnavailable is returned when the homeserver gives no answer: it is down, the
// answer is not a homeserver's, or it limits the rate of requests. The same request
// may succeed later.
var ErrUnavailable = errors.New("the homeserver cannot answer")

// ErrUnanswered is the [ErrUnavailable] of a request without any answer: the
// connection failed, or it took too long. The request may have had its effect.
var ErrUnanswered = fmt.Errorf("%w: no answer", ErrUnavailable)

// An Error is a homeserver's refusal.
type Error struct {
	// Status is the HTTP status, 400 or higher.
	Status int

	// Code is Matrix's error code, such as M_FORBIDDEN.
	Code string

	// Text is the homeserver's explanation, shortened.
	Text string

	// SoftLogout is the homeserver's soft_logout for a refused access token, nil if it
	// sent none.
	SoftLogout *bool
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Text) }

// Options are the options of a [Client].
type Options struct {
	// Attempts is the maximum number of attempts for a request whose answer is 429 or
	// 5xx, or that gets no answer. The first wait between two attempts is 100 ms, and
	// each is four times as long as the one before, unless the homeserver asks for
	// another. Defaults to 4.
	Attempts int

	// MostWait bounds the wait between two attempts. If the homeserver asks for a
	// longer one, the request fails. Defaults to 10 s.
	MostWait time.Duration

	// Timeout bounds one attempt. An attempt that timed out is not repeated. It does
	// not bound requests that are passed on. Defaults to 1 m.
	Timeout time.Duration
}

const (
	// minWait is the shortest wait, after the first attempt.
	minWait = 100 * time.Millisecond

	// dialTime bounds opening a connection.
	dialTime = 5 * time.Second

	// mostAnswer bounds an answer that this package reads, in bytes. The largest is a
	// user's account.
	mostAnswer = 1 << 20

	// mostText bounds what is kept of a refusal's text, in bytes.
	mostText = 300
)

// A Client talks to one homeserver. It is safe for concurrent use.
type Client struct {
	options   Options
	base      *url.URL
	transport http.RoundTripper
	close     func()
}

// New returns a Client for the homeserver at the URL, which must be a [ValidURL]. It
// does not connect. The caller must close the Client.
func New(homeserver string, options Options) (*Client, error) {
	if err := ValidURL(homeserver); err != nil {
		return nil, err
	}
	base, err := url.Parse(homeserver)
	if err != nil {
		return nil, fmt.Errorf("read the homeserver's URL: %w", err)
	}
	options.Attempts = cmp.Or(options.Attempts, 4)
	options.MostWait = cmp.Or(options.MostWait, 10*time.Second)
	options.Timeout = cmp.Or(options.Timeout, time.Minute)
	// No proxy: a proxy from the environment would see every access token.
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTime}).DialContext,
		// Answers that are passed on must arrive as they were sent.
		DisableCompression:     true,
		ExpectContinueTimeout:  time.Second,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    32,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    dialTime,
	}
	return &Client{options: options, base: base, transport: transport, close: transport.CloseIdleConnections}, nil
}

// Close closes idle connections. A later request opens a new one, and a second call
// does no harm.
func (c *Client) Close() { c.close() }

// ValidURL returns what is wrong with a homeserver's URL, without repeating it. The
// URL is http://host:port or https://host, without a path, because the path of a
// request is passed on as it was sent.
func ValidURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") {
		return errors.New("must be a homeserver's URL, such as http://127.0.0.1:8008, with no path")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return errors.New("must be a homeserver's URL with a port from 1 to 65535")
		}
	}
	return nil
}

// ValidToken reports whether a text can be an access token: characters that fit in a
// header and in a request line.
func ValidToken(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return token != "" && len(token) <= 8<<10
}

// Alive checks once whether the homeserver answers.
func (c *Client) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	once := *c
	once.options.Attempts = 1
	return once.do(ctx, "ask for a sign of life", call{method: http.MethodGet, path: []string{"_matrix", "client", "versions"}}, nil)
}

// A call is one request.
type call struct {
	method string
	path   []string // segments, not yet escaped
	token  string   // "" sends none
	user   string   // the user that an application service acts as; "" for its own
	query  url.Values
	body   any // nil sends none

	// once says that the request must not arrive twice. It is repeated only if the
	// first attempt has not arrived.
	once bool
}

// do sends a request, repeats it if necessary, and decodes the answer into the value
// that into points to. If into is nil, any JSON object is accepted.
func (c *Client) do(ctx context.Context, operation string, call call, into any) error {
	var body []byte
	if call.body != nil {
		var err error
		if body, err = json.Marshal(call.body); err != nil {
			return fmt.Errorf("%s: %w", operation, err)
		}
	}
	backoff := minWait
	for attempt := 1; ; attempt++ {
		again, after, err := c.attempt(ctx, call, body, into)
		if err == nil {
			return nil
		}
		if after == 0 {
			after = backoff + rand.N(backoff)
			backoff *= 4
		}
		deadline, limited := ctx.Deadline()
		if !again || attempt >= c.options.Attempts || after > c.options.MostWait ||
			limited && time.Until(deadline) < after {
			return fmt.Errorf("%s: %w", operation, err)
		}
		if err := wait.For(ctx, after); err != nil {
			return fmt.Errorf("%s: %w", operation, err)
		}
	}
}

// attempt sends a request once. After an error it returns whether to repeat it, and
// the wait that the homeserver asks for, 0 if it asks for none.
func (c *Client) attempt(ctx context.Context, call call, body []byte, into any) (again bool, after time.Duration, err error) {
	limited, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	request, err := c.request(limited, call, body)
	if err != nil {
		return false, 0, err
	}
	// A RoundTripper follows no redirect, which could send the access token elsewhere.
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		var network *net.OpError
		notSent := errors.As(err, &network) && network.Op == "dial"
		return c.lost(ctx, limited, err, !call.once || notSent)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, mostAnswer+1))
	switch {
	case err != nil:
		return c.lost(ctx, limited, err, !call.once)
	case len(answer) > mostAnswer:
		return false, 0, fmt.Errorf("%w: its answer is longer than %d bytes", ErrUnavailable, mostAnswer)
	case response.StatusCode/100 == 2:
		var object map[string]json.RawMessage
		if err := json.Unmarshal(answer, &object); err != nil || object == nil {
			return false, 0, fmt.Errorf("%w: its answer is no JSON object", ErrUnavailable)
		}
		if into != nil && json.Unmarshal(answer, into) != nil {
			return false, 0, fmt.Errorf("%w: its answer is not what was asked for", ErrUnavailable)
		}
		return false, 0, nil
	}
	refusal, asked := readRefusal(answer, call.token)
	if refusal == nil {
		return response.StatusCode >= 500 && !call.once, 0,
			fmt.Errorf("%w: status %d without a Matrix error", ErrUnavailable, response.StatusCode)
	}
	refusal.Status = response.StatusCode
	switch {
	case refusal.Status == http.StatusTooManyRequests:
		asked = cmp.Or(asked, retryAfter(response.Header.Get("Retry-After"), time.Now()))
		return true, asked, fmt.Errorf("%w: %w", ErrUnavailable, refusal)
	case refusal.Status < 400:
		return false, 0, fmt.Errorf("%w: status %d", ErrUnavailable, refusal.Status)
	}
	return refusal.Status >= 500 && !call.once, 0, refusal
}

// request writes a request. Its error repeats nothing of the request.
func (c *Client) request(ctx context.Context, call call, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, call.method, c.url(call), bytes.NewReader(body))
	switch {
	case err != nil:
		return nil, errors.New("the request cannot be written")
	case call.token != "" && !ValidToken(call.token):
		return nil, errors.New("the access token cannot be sent")
	case call.token != "":
		request.Header.Set("Authorization", "Bearer "+call.token)
	}
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// lost returns the result of an attempt without an answer.
func (c *Client) lost(ctx, limited context.Context, err error, again bool) (bool, time.Duration, error) {
	switch {
	case ctx.Err() != nil:
		return false, 0, context.Cause(ctx)
	case limited.Err() != nil:
		return false, 0, fmt.Errorf("%w within %s", ErrUnanswered, c.options.Timeout)
	}
	return again, 0, fmt.Errorf("%w: %w", ErrUnanswered, err)
}

// url returns a request's URL.
func (c *Client) url(call call) string {
	var b strings.Builder
	b.WriteString(c.base.Scheme + "://" + c.base.Host)
	for _, segment := range call.path {
		b.WriteString("/" + url.PathEscape(segment))
	}
	query := call.query.Encode()
	if call.user != "" {
		if query != "" {
			query += "&"
		}
		query += "user_id=" + url.QueryEscape(call.user)
	}
	if query != "" {
		b.WriteString("?" + query)
	}
	return b.String()
}

// readRefusal reads Matrix's error body. It returns nil for any other body. after is
// the time after which the homeserver allows another attempt, 0 if it does not say.
func readRefusal(body []byte, token string) (refusal *Error, after time.Duration) {
	var said struct {
		Code       string          `json:"errcode"`
		Text       json.RawMessage `json:"error"`
		Wait       json.RawMessage `json:"retry_after_ms"`
		SoftLogout json.RawMessage `json:"soft_logout"`
	}
	if json.Unmarshal(body, &said) != nil || said.Code == "" {
		return nil, 0
	}
	refusal = &Error{Code: short(said.Code, token)}
	var text string
	if json.Unmarshal(said.Text, &text) == nil {
		refusal.Text = short(text, token)
	}
	var soft bool
	if len(said.SoftLogout) > 0 && json.Unmarshal(said.SoftLogout, &soft) == nil {
		refusal.SoftLogout = &soft
	}
	if ms, err := strconv.ParseFloat(string(said.Wait), 64); err == nil {
		after = seconds(ms / 1000)
	}
	return refusal, after
}

// short makes a text from the homeserver, or from a server in its place, fit for a
// log.
func short(text, token string) string {
	if token != "" {
		text = strings.ReplaceAll(text, token, "[secret]")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= mostText {
		return text
	}
	end := mostText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// retryAfter reads the Retry-After header, seconds or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseFloat(value, 64); err == nil {
		return seconds(n)
	}
	if date, err := http.ParseTime(value); err == nil {
		return seconds(date.Sub(now).Seconds())
	}
	return 0
}

// seconds returns a wait for a number from outside: 0 if the number is not positive,
// and at most a day.
func seconds(n float64) time.Duration {
	const day = 24 * time.Hour
	switch {
	case n > day.Seconds():
		return day
	case n > 0:
		return max(time.Duration(n*float64(time.Second)), time.Millisecond)
	}
	return 0
}

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
