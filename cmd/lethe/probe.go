package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// probeTimeout is the longest time of a probe. It is longer than /readyz takes,
	// and shorter than a container engine waits by default.
	probeTimeout = 5 * time.Second

	// maxShown is the number of bytes of a response that are printed.
	maxShown = 4 << 10
)

// probe requests a URL and fails unless the status is 200. It is for container images
// without any other HTTP client.
func probe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "lethe probe takes one argument, a URL such as http://127.0.0.1:8470/readyz")
		return errUsage
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	text, err := get(ctx, flags.Arg(0))
	if text != "" {
		fmt.Println(text)
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
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
