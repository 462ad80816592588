package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// listenTimeout is how long an api may take until it listens.
const listenTimeout = 30 * time.Second

// serving runs do while an api serves a database. It passes the base URL of the api.
func (r *rig) serving(ctx context.Context, database string, do func(ctx context.Context, base string, api *os.Process) error) error {
	group, ctx := errgroup.WithContext(ctx)
	working, stop := context.WithCancel(ctx)
	defer stop()
	cmd := r.program(working, r.options.API, database)
	// The api logs each request, as it does in production.
	cmd.Env = append(cmd.Env, "LETHE_API_LISTEN=127.0.0.1:0", "LETHE_LOG_FORMAT=json", "LETHE_LOG_LEVEL=info")
	log, writer := io.Pipe()
	defer func() { _ = writer.Close() }() // the process has ended: Wait has copied its whole log
	cmd.Stderr = writer
	listening := make(chan string, 1)
	go r.readLog(log, listening)
	if err := start(working, group, cmd); err != nil {
		return err
	}
	group.Go(func() error {
		defer stop()
		late := time.NewTimer(listenTimeout)
		defer late.Stop()
		select {
		case address := <-listening:
			return do(ctx, "http://"+address, cmd.Process)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return errors.New("the api does not listen")
		}
	})
	return group.Wait()
}

// readLog reads the log of a process to its end. It sends the first address in the log
// to listening. It copies warnings and errors to the progress.
func (r *rig) readLog(log io.Reader, listening chan<- string) {
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		switch {
		case listening != nil && bytes.Contains(line, []byte(`"listening"`)):
			var said struct{ Address string }
			if json.Unmarshal(line, &said) == nil && said.Address != "" {
				listening <- said.Address
				listening = nil
			}
		case !bytes.Contains(line, []byte(`"level":"INFO"`)):
			_, _ = r.options.Progress.Write(line) // progress may be lost
		}
		if err != nil {
			return
		}
	}
}
