package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Delegates asks once whether the homeserver delegates its accounts to another service,
// such as Matrix Authentication Service, so that access tokens are not in its database.
// A homeserver that does has the metadata of an authorization server; others do not know
// the request. An error that wraps [ErrUnavailable] says that the homeserver cannot tell
// now: it may itself not reach the service.
func (c *Client) Delegates(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	once := *c
	once.options.Attempts = 1
	// The second path is older, and the third is older still.
	for _, path := range [][]string{
		{"_matrix", "client", "v1", "auth_metadata"},
		{"_matrix", "client", "unstable", "org.matrix.msc2965", "auth_metadata"},
		{"_matrix", "client", "unstable", "org.matrix.msc2965", "auth_issuer"},
	} {
		const operation = "ask whether the homeserver delegates its accounts"
		var metadata struct {
			Issuer string `json:"issuer"`
		}
		err := once.do(ctx, operation, call{method: http.MethodGet, path: path}, &metadata)
		var refusal *Error
		switch {
		case err == nil && metadata.Issuer == "":
			return false, fmt.Errorf("%s: %w: its answer has no issuer", operation, ErrUnavailable)
		case err == nil:
			return true, nil
		case errors.As(err, &refusal) && refusal.Status < 500 && (refusal.Status == http.StatusNotFound || refusal.Code == "M_UNRECOGNIZED"):
		case errors.As(err, &refusal):
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		default:
			return false, err
		}
	}
	return false, nil
}
