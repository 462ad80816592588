package mas

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lethe/internal/expiring"
	"lethe/internal/homeserver"
	"lethe/internal/wait"
)

var (
	// ErrUnavailable is returned when the service gives no answer, or one that cannot be
	// used. The same request may succeed later.
	ErrUnavailable = errors.New("Matrix Authentication Service cannot answer")

	// ErrSecret is the [ErrUnavailable] of a service that refuses the secret.
	ErrSecret = fmt.Errorf("%w: it refuses the secret: mas.secret must be matrix.secret of its configuration", ErrUnavailable)

	// ErrInactive is returned for an access token that the service does not know, that
	// has expired or was revoked, or whose user is locked or deactivated.
	ErrInactive = errors.New("the access token is not active")

	// ErrScope is returned for an access token that was not issued for Matrix's client
	// API.
	ErrScope = errors.New("the access token does not grant access to the client API")

	// ErrNoUser is returned for an access token of a client without a user.
	ErrNoUser = errors.New("the access token has no user")
)

// Options are the options of a [Client].
type Options struct {
	// Attempts is the maximum number of attempts for a request that gets no answer or
	// an internal error. The wait between two attempts is about 100 ms. Defaults to 2.
	Attempts int

	// Keep is how long the service's answer about a token is cached, unless the token
	// expires earlier. A token that was revoked is accepted for that long. Defaults to
	// 10 s.
	Keep time.Duration

	// KeepOthers is how long a refusal is cached. Defaults to 2 s.
	KeepOthers time.Duration

	// MaxAnswers is the maximum number of cached answers. Defaults to 10,000.
	MaxAnswers int

	// Timeout bounds one attempt. An attempt that timed out is not repeated. Defaults
	// to 5 s.
	Timeout time.Duration
}

const (
	// betweenAttempts is the wait between two attempts, before jitter.
	betweenAttempts = 100 * time.Millisecond

	// dialTime bounds opening a connection.
	dialTime = 5 * time.Second

	// maxAnswer bounds an answer, in bytes. The largest part is the list of scopes.
	maxAnswer = 64 << 10
)

// A Client asks one Matrix Authentication Service about access tokens, and caches its
// answers for some seconds. It stores only a hash of each token. It is safe for
// concurrent use.
type Client struct {
	options   Options
	endpoint  string
	transport http.RoundTripper
	close     func()
	answers   *expiring.Map[[sha256.Size]byte, answer]

	// secret is a function, so that no format verb prints the secret.
	secret func() string
}

// An answer is what the service said about a token: its owner, or a refusal.
type answer struct {
	token   Token
	refusal error
}

// New returns a Client for the service at the URL, which must be a [ValidURL], with the
// secret that the service shares with the homeserver. It does not connect. The caller
// must close the Client.
func New(service, secret string, options Options) (*Client, error) {
	if err := ValidURL(service); err != nil {
		return nil, fmt.Errorf("read the URL of Matrix Authentication Service: %w", err)
	}
	if !homeserver.ValidToken(secret) {
		return nil, errors.New("the secret of Matrix Authentication Service cannot be sent in a header")
	}
	options.Attempts = cmp.Or(options.Attempts, 2)
	options.Keep = cmp.Or(options.Keep, 10*time.Second)
	options.KeepOthers = cmp.Or(options.KeepOthers, 2*time.Second)
	options.MaxAnswers = cmp.Or(options.MaxAnswers, 10_000)
	options.Timeout = cmp.Or(options.Timeout, 5*time.Second)
	// No proxy: a proxy from the environment would see the secret and every access token.
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
		DisableCompression:     true, // so that maxAnswer bounds what is decoded too
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    32,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    dialTime,
	}
	return &Client{
		options: options, endpoint: strings.TrimSuffix(service, "/") + "/oauth2/introspect",
		transport: transport, close: transport.CloseIdleConnections,
		answers: expiring.New[[sha256.Size]byte, answer](options.MaxAnswers),
		secret:  func() string { return secret },
	}, nil
}

// Close closes idle connections. A later request opens a new one, and a second call
// does no harm.
func (c *Client) Close() { c.close() }

// ValidURL returns what is wrong with the URL of a Matrix Authentication Service,
// without repeating it. The URL may have a path, below which the service answers.
func ValidURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") {
		return errors.New("must be the URL of Matrix Authentication Service, such as http://127.0.0.1:8080")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return errors.New("must be the URL of Matrix Authentication Service with a port from 1 to 65535")
		}
	}
	return nil
}

// Token returns whose an access token is. A refused token is [ErrInactive], [ErrScope]
// or [ErrNoUser]. If the service cannot be asked, that is [ErrUnavailable], and the next
// call asks again.
func (c *Client) Token(ctx context.Context, accessToken string) (Token, error) {
	if !homeserver.ValidToken(accessToken) {
		return Token{}, ErrInactive
	}
	key := sha256.Sum256([]byte(accessToken))
	if known, ok := c.answers.Get(key); ok {
		return known.token, known.refusal
	}
	asked := time.Now()
	said, err := c.introspect(ctx, accessToken)
	if err != nil {
		return Token{}, err
	}
	token, err := said.token()
	ttl := min(c.options.Keep, said.lifetime()-time.Since(asked))
	switch {
	case errors.Is(err, ErrUnavailable):
		return Token{}, fmt.Errorf("%s: %w", operation, err)
	case err != nil:
		ttl = c.options.KeepOthers
	}
	c.answers.Put(key, answer{token, err}, ttl)
	return token, err
}

// Check asks the service once about a token of no user. It returns an error that
// wraps [ErrUnavailable] if the service cannot be asked, among them [ErrSecret].
func (c *Client) Check(ctx context.Context) error {
	once := *c
	once.options.Attempts = 1
	said, err := once.introspect(ctx, "lethe_"+rand.Text())
	if err == nil && *said.Active {
		err = fmt.Errorf("%s: %w: it knows a token that was made up", operation, ErrUnavailable)
	}
	return err
}

const operation = "ask Matrix Authentication Service about an access token"

// introspect asks about a token, and asks again if that may help.
func (c *Client) introspect(ctx context.Context, accessToken string) (said introspection, err error) {
	backoff := wait.Backoff{Min: betweenAttempts}
	attempt, again := 0, false
	err = wait.Retry(ctx, backoff, func(error) bool { return again }, func() (err error) {
		attempt++
		said, again, err = c.attempt(ctx, accessToken)
		again = again && attempt < c.options.Attempts
		return err
	})
	if err != nil {
		return introspection{}, fmt.Errorf("%s: %w", operation, err)
	}
	return said, nil
}

// attempt asks about a token once. After an error it returns whether to ask again.
func (c *Client) attempt(ctx context.Context, accessToken string) (said introspection, again bool, err error) {
	limited, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	form := url.Values{"token": {accessToken}, "token_type_hint": {"access_token"}}
	request, err := http.NewRequestWithContext(limited, http.MethodPost, c.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return said, false, errors.New("the request cannot be written")
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Authorization", "Bearer "+c.secret())
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// Without this the service cannot name each device of a legacy login.
	request.Header.Set("X-MAS-Supports-Device-Id", "1")
	// A RoundTripper follows no redirect, which could send the token elsewhere.
	response, err := c.transport.RoundTrip(request)
	if err == nil {
		defer response.Body.Close()
		said, again, err = read(response)
	}
	switch {
	case ctx.Err() != nil:
		return introspection{}, false, context.Cause(ctx)
	case err != nil && limited.Err() != nil:
		return introspection{}, false, fmt.Errorf("%w within %s", ErrUnavailable, c.options.Timeout)
	case response == nil:
		return introspection{}, true, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return said, again, err
}

// read reads an answer. After an error it returns whether to ask again.
func read(response *http.Response) (said introspection, again bool, err error) {
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return said, false, ErrSecret
	case status != http.StatusOK:
		return said, status >= 500, fmt.Errorf("%w: status %d", ErrUnavailable, status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return said, true, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case len(body) > maxAnswer:
		return said, false, fmt.Errorf("%w: its answer is longer than %d bytes", ErrUnavailable, maxAnswer)
	}
	said, err = parse(body)
	return said, false, err
}
