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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), http.NoBody)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	// The request must reach this container, so it ignores the proxies of the
	// environment, and it does not follow redirects.
	client := http.Client{
		Transport:     &http.Transport{Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // it has been read
	text, err := io.ReadAll(io.LimitReader(response.Body, maxShown))
	if err != nil {
		return fmt.Errorf("probe: read the response: %w", err)
	}
	fmt.Printf("%s %s\n", response.Status, text)
	if response.StatusCode != http.StatusOK {
		return errors.New("probe: the status is not 200")
	}
	return nil
}
