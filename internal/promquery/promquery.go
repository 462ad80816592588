package promquery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// queryTime bounds a query, and maxAnswer the size of its answer.
	queryTime = 2 * time.Second
	maxAnswer = 1 << 20
)

// A Query asks a Prometheus for a number. The client library of Prometheus is not
// used: it links a JSON library that is no longer maintained, for an answer of four fields.
type Query struct {
	client *http.Client
	url    string
}

// ValidURL refuses a text that is not a URL of HTTP with a host.
func ValidURL(text string) error {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Hostname() == "" || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.RawQuery != "" {
		return errors.New("must be the URL of a Prometheus, such as http://127.0.0.1:9090")
	}
	return nil
}

// New returns a query of the Prometheus at a URL. It asks nothing yet.
// It fails if [ValidURL] refuses the URL.
func New(base, query string) (*Query, error) {
	if err := ValidURL(base); err != nil {
		return nil, err
	}
	parsed, err := url.Parse(base)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	at := parsed.JoinPath("api/v1/query")
	at.RawQuery = url.Values{"query": {query}, "timeout": {queryTime.String()}}.Encode()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 1
	return &Query{client: &http.Client{Timeout: queryTime, Transport: transport}, url: at.String()}, nil
}

// Close closes the idle connections. A second call does nothing.
func (q *Query) Close() { q.client.CloseIdleConnections() }

// errNoNumber is the error of an answer without a number.
var errNoNumber = errors.New("the query returned no number")

// Value returns the largest number of the answer.
func (q *Query) Value(ctx context.Context) (value float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, q.url, nil)
	if err != nil {
		return 0, fmt.Errorf("ask Prometheus: %w", err)
	}
	response, err := q.client.Do(request)
	if err != nil {
		// Its text has the URL, which may have a password.
		return 0, fmt.Errorf("ask Prometheus: %w", errors.Unwrap(err))
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("ask Prometheus: it answered with status %d", response.StatusCode)
	}
	var answer struct {
		Data struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer); err != nil {
		return 0, fmt.Errorf("ask Prometheus: %w", err)
	}
	return largest(answer.Data.Type, answer.Data.Result)
}

// largest returns the largest number of a scalar or a vector.
func largest(kind string, result json.RawMessage) (value float64, err error) {
	type sample struct {
		Value [2]any `json:"value"` // the time, and the number as a text
	}
	samples := make([]sample, 1)
	switch kind {
	case "scalar":
		err = json.Unmarshal(result, &samples[0].Value)
	case "vector":
		err = json.Unmarshal(result, &samples)
	}
	if err != nil {
		return 0, fmt.Errorf("read the answer of Prometheus: %w", err)
	}
	value = math.Inf(-1)
	for _, s := range samples {
		text, _ := s.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			value = max(value, v)
		}
	}
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return 0, errNoNumber
	}
	return value, nil
}
