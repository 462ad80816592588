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
	// probeTime bounds a probe: more than a check of /readyz may take, and less
	// than a container engine waits by default.
	probeTime = 5 * time.Second

	// mostProbed is how much of an answer is shown.
	mostProbed = 4 << 10
)

// probe asks for a URL, and fails unless the answer is 200. It is for images
// that hold no other program that could ask.
func probe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "lethe probe takes one argument, a URL such as http://127.0.0.1:8470/readyz")
		return errUsage
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), http.NoBody)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	// A proxy of the environment would be asked in the place of this container,
	// and another address that we are sent to is not what was to be probed.
	client := http.Client{
		Transport:     &http.Transport{Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(response.Body, mostProbed))
	if err != nil {
		return fmt.Errorf("probe: read the answer: %w", err)
	}
	fmt.Printf("%s %s\n", response.Status, text)
	if response.StatusCode != http.StatusOK {
		return errors.New("probe: the answer is not 200")
	}
	return nil
}
