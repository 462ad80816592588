package synapserun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/wait"
)

const (
	// startTimeout is how long a Synapse may take until it answers. It may upgrade its
	// schema first.
	startTimeout = 5 * time.Minute

	// stopTimeout is how long the command may take to stop. Then it is killed.
	stopTimeout = time.Minute

	// requestTimeout limits a request. None of them waits for the job.
	requestTimeout = time.Minute

	// jobTimeout limits a purge or a delete.
	jobTimeout = 4 * time.Hour

	// pollInterval is the time between two questions. More of them would slow down a
	// Synapse of one process.
	pollInterval = 200 * time.Millisecond

	// maxAnswer is the size of the longest answer that is read, in bytes.
	maxAnswer = 1 << 20
)

// ErrBusy is returned if a homeserver answers at the URL before the command has started. It
// would run on another database.
var ErrBusy = errors.New("a homeserver already answers there")

// A Synapse says how to run a Synapse. Its methods are not safe for concurrent use.
type Synapse struct {
	// Command is a command of the shell that runs a Synapse on the database that the
	// variables PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE name, until it gets
	// SIGTERM. It has no default.
	Command string

	// URL is the base URL where that Synapse answers. It has no default.
	URL string

	// Token is the access token of a server admin in the database. It has no default.
	Token string

	// Output gets the output of the command. Defaults to nil, which discards it.
	Output io.Writer
}

// On runs do while the Synapse runs on a database. The error wraps [ErrBusy] if a
// homeserver runs at the URL already. A second call starts it again.
func (s Synapse) On(ctx context.Context, database string, do func(context.Context) error) error {
	if s.healthy(ctx) {
		return fmt.Errorf("%s: %w", s.URL, ErrBusy)
	}
	environment, err := variables(database)
	if err != nil {
		return err
	}
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(running, "sh", "-c", s.Command)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = s.Output, s.Output
	// The shell and what it has started stop together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the Synapse: %w", err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		err := cmd.Wait()
		if running.Err() == nil {
			ended(errors.Join(fmt.Errorf("the command of the Synapse has ended too early: %s", cmd.ProcessState), err))
		}
	}()
	err = s.await(ctx)
	if err == nil {
		err = do(ctx)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	stop()
	<-stopped
	return err
}

// variables returns the variables of libpq for a database.
func variables(database string) ([]string, error) {
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return nil, errors.New("the URL of the database is not valid") // without the URL, which may have a password
	}
	return []string{
		"PGHOST=" + config.Host, fmt.Sprintf("PGPORT=%d", config.Port), "PGUSER=" + config.User,
		"PGPASSWORD=" + config.Password, "PGDATABASE=" + config.Database,
	}, nil
}

// await waits until the Synapse answers.
func (s Synapse) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no Synapse answers at %s after %s", s.URL, startTimeout))
	defer cancel()
	for !s.healthy(ctx) {
		if err := wait.For(ctx, pollInterval); err != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s Synapse) healthy(ctx context.Context) bool {
	return s.ask(ctx, http.MethodGet, "/health", nil, nil) == nil
}

// PurgeHistory purges the history of a room before an event, events of local users
// included. It returns when the purge is complete, with the time since its request.
func (s Synapse) PurgeHistory(ctx context.Context, room, before string) (time.Duration, error) {
	var job struct {
		ID string `json:"purge_id"`
	}
	took, err := s.run(ctx, func() error {
		return s.ask(ctx, http.MethodPost, "/_synapse/admin/v1/purge_history/"+url.PathEscape(room),
			map[string]any{"delete_local_events": true, "purge_up_to_event_id": before}, &job)
	}, func() (status, error) {
		var is status
		return is, s.ask(ctx, http.MethodGet, "/_synapse/admin/v1/purge_history_status/"+url.PathEscape(job.ID), nil, &is)
	})
	if err != nil {
		return 0, fmt.Errorf("let the Synapse purge %s: %w", room, err)
	}
	return took, nil
}

// DeleteRoom makes the local users leave a room and deletes it. It returns when that is
// complete, with the time since its request.
func (s Synapse) DeleteRoom(ctx context.Context, room string) (time.Duration, error) {
	var job struct {
		ID string `json:"delete_id"`
	}
	took, err := s.run(ctx, func() error {
		return s.ask(ctx, http.MethodDelete, "/_synapse/admin/v2/rooms/"+url.PathEscape(room),
			map[string]any{"purge": true, "force_purge": true}, &job)
	}, func() (is status, err error) {
		return is, s.ask(ctx, http.MethodGet, "/_synapse/admin/v2/rooms/delete_status/"+url.PathEscape(job.ID), nil, &is)
	})
	if err != nil {
		return 0, fmt.Errorf("let the Synapse delete %s: %w", room, err)
	}
	return took, nil
}

// A status is what a Synapse says of a job.
type status struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

// run starts a job and waits until it has ended.
func (s Synapse) run(ctx context.Context, start func() error, look func() (status, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, jobTimeout, fmt.Errorf("the job has not ended after %s", jobTimeout))
	defer cancel()
	started := time.Now()
	if err := start(); err != nil {
		return 0, err
	}
	for {
		is, err := look()
		switch {
		case err != nil:
			return 0, err
		case is.Status == "complete":
			return time.Since(started), nil
		case is.Status == "failed":
			return 0, fmt.Errorf("it failed: %.500s", is.Error)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return 0, context.Cause(ctx)
		}
	}
}

// ask sends a request and decodes the answer, unless it is nil.
func (s Synapse) ask(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.URL, "/")+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+s.Token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: status %d: %.300s", method, path, response.StatusCode, said)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(said, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
