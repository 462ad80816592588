package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/terminal"
)

const (
	// probeTimeout is the longest time of a probe. It is longer than /readyz takes,
	// and shorter than a container engine waits by default.
	probeTimeout = 5 * time.Second

	// maxShown is the number of bytes of a response that are printed.
	maxShown = 4 << 10
)

func (a *app) probe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe URL",
		Short: "request a URL, and fail unless the status is 200",
		Long: `Requests a URL, and fails unless the status is 200. It is for container images without
any other HTTP client.`,
		Example: `  lethe probe http://127.0.0.1:8470/readyz`,
		Args:    command.Arguments("a URL such as http://127.0.0.1:8470/readyz"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), probeTimeout)
			defer cancel()
			text, err := get(ctx, args[0])
			if text != "" {
				_, _ = fmt.Fprintln(c.OutOrStdout(), terminal.Lines(text)) // the status says it too
			}
			if err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			return nil
		},
	}
}

// get requests a URL. It returns the status and the beginning of the response, and an
// error unless the status is 200.
func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	// The request must reach this machine, so it ignores the proxies of the
	// environment, and it does not follow redirects.
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	text, err := io.ReadAll(io.LimitReader(response.Body, maxShown))
	switch {
	case err != nil:
		err = fmt.Errorf("read the response: %w", err)
	case response.StatusCode != http.StatusOK:
		err = errors.New("the status is not 200")
	}
	return fmt.Sprintf("%s %s", response.Status, text), err
}
