package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"lethe/internal/matrix"
	"lethe/internal/redisdb"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/tasks"
	"lethe/internal/wait"
)

// stopTimeout is how long a program may take to stop. Then it is killed.
const stopTimeout = 30 * time.Second

// A database is a copy of a template.
type database struct {
	rig  *rig
	name string

	// environment is variables for the workers, in addition to those of the servers.
	environment []string

	// beside is programs that run at the same time as the workers, with the same
	// environment.
	beside []string
}

// url returns the URL for a superuser. Its purges check references all at once.
func (d database) url() string { return d.rig.url(d.name) }

// plainURL returns the URL for a role that cannot disable triggers. PostgreSQL checks
// the references of its purges row by row.
func (d database) plainURL() string {
	u, _ := url.Parse(d.url()) // url returned it
	u.User = d.rig.plain
	return u.String()
}

// atWork runs do while this many workers work on the database, as the role of the
// URL. It waits until all workers take jobs. The processes that it passes to do are the
// workers, followed by the programs beside them.
func (d database) atWork(ctx context.Context, url string, workers int, do func(context.Context, []*os.Process) error) error {
	group, ctx := errgroup.WithContext(ctx)
	working, stop := context.WithCancel(ctx)
	defer stop()
	var processes []*os.Process
	for _, program := range slices.Concat(slices.Repeat([]string{d.rig.options.Worker}, workers), d.beside) {
		cmd := d.rig.program(working, program, url)
		cmd.Env = append(cmd.Env, "LETHE_LOG_LEVEL=warn", "LETHE_SCHEDULER_LISTEN=", "LETHE_WORKER_LISTEN=")
		cmd.Env = append(cmd.Env, d.environment...)
		cmd.Stderr = d.rig.options.Progress
		if err := start(working, group, cmd); err != nil {
			stop()
			return errors.Join(err, group.Wait())
		}
		processes = append(processes, cmd.Process)
	}
	group.Go(func() error {
		defer stop()
		if err := d.rig.awaitWorkers(working, workers); err != nil {
			return err
		}
		return do(ctx, processes)
	})
	return group.Wait()
}

// program returns a command that runs one of Lethe's programs on a database. The
// program gets SIGTERM when the context ends.
func (r *rig) program(ctx context.Context, path, database string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	// Lethe's own settings in the environment would change the result.
	foreign := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "LETHE_") })
	cmd.Env = append(foreign,
		"LETHE_DATABASE_URL="+database,
		"LETHE_REDIS_URL="+r.redis.URL(),
		"LETHE_SERVER_NAME="+serverName,
		"LETHE_SIGNING_KEY_FILE="+r.keyFile,
		"LETHE_SYNAPSE_BESIDE=false",
		"LETHE_VACUUM_ENABLED=false", // it would work beside what is measured
	)
	return cmd
}

// awaitWorkers waits until this many workers have registered with asynq.
func (r *rig) awaitWorkers(ctx context.Context, workers int) error {
	client, err := redisdb.Open(r.redis.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	inspector := asynq.NewInspectorFromRedisClient(client)
	return poll(ctx, "the workers", func() (bool, error) {
		servers, err := inspector.Servers()
		if err != nil {
			return false, fmt.Errorf("look for the workers: %w", err)
		}
		running := map[int]bool{} // each worker is several servers of asynq
		for _, server := range servers {
			running[server.PID] = true
		}
		return len(running) >= workers, nil
	})
}

// start starts a program. The group fails if the program ends before the context.
func start(ctx context.Context, group *errgroup.Group, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	group.Go(func() error {
		err := cmd.Wait()
		if ctx.Err() == nil {
			return errors.Join(fmt.Errorf("%s has ended too early: %s", cmd.Path, cmd.ProcessState), err)
		}
		return nil
	})
	return nil
}

// withClient runs do with a client that accepts jobs, as the api does.
func (d database) withClient(ctx context.Context, do func(*tasks.Client) error) error {
	db, err := postgres.Open(ctx, d.url(), postgres.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	names, err := d.names(ctx)
	if err != nil {
		return err
	}
	redis, err := redisdb.Open(d.rig.redis.URL())
	if err != nil {
		return err
	}
	defer func() { _ = redis.Close() }()
	return do(tasks.NewClient(db, redis, names, slog.New(slog.DiscardHandler)))
}

// names returns the names in Redis of the programs that run on the database.
func (d database) names(ctx context.Context) (*redisdb.Names, error) {
	id, err := migrate.IDOf(ctx, d.url())
	if err != nil {
		return nil, err
	}
	return redisdb.NamesOf(id), nil
}

// A submit accepts a job of a room.
type submit func(ctx context.Context, client *tasks.Client, r room) error

const requester = "@bench:" + serverName

func submitPurge(ctx context.Context, client *tasks.Client, r room) error {
	_, err := client.SubmitPurgeHistory(ctx, tasks.PurgeHistory{
		Room: r.id, Token: matrix.Token{Topological: r.depth, Stream: math.MaxInt64},
		DeleteLocalEvents: true, Requester: requester,
	})
	return err
}

func submitDelete(ctx context.Context, client *tasks.Client, r room) error {
	_, err := client.SubmitDeleteRoom(ctx, tasks.DeleteRoom{
		Room: r.id, Requester: requester, Purge: true,
		ForcePurge: true, // no homeserver runs that could tell other servers first
	})
	return err
}

// runJob submits a job and waits for its end. It calls onCommit, if it is not nil, with
// the time of each commit that it sees.
func (d database) runJob(ctx context.Context, r room, submit submit, onCommit func(time.Time)) error {
	if err := d.withClient(ctx, func(client *tasks.Client) error { return submit(ctx, client, r) }); err != nil {
		return err
	}
	return d.awaitJobs(ctx, onCommit)
}

// awaitJobs waits until all jobs have ended. A job that failed is an error.
func (d database) awaitJobs(ctx context.Context, onCommit func(time.Time)) error {
	return d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		var last time.Time
		return poll(ctx, "the jobs", func() (bool, error) {
			var open bool
			var failed *string
			var committed time.Time
			if err := conn.QueryRow(ctx, `
				SELECT bool_or(ended_at IS NULL), min(error), max(updated_at) FROM lethe.jobs`).
				Scan(&open, &failed, &committed); err != nil {
				return false, fmt.Errorf("look at the jobs: %w", err)
			}
			switch {
			case failed != nil:
				return false, fmt.Errorf("a job failed: %s", *failed)
			case onCommit != nil && committed != last:
				onCommit(committed)
				last = committed
			}
			return !open, nil
		})
	})
}

// pollInterval is the wait between two looks at what has ended. It does not limit
// the precision: the benchmark uses the times in the rows of the jobs.
const pollInterval = 10 * time.Millisecond

// poll calls done until it returns true or an error. The error of an ended context
// says what poll was waiting for.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		ended, err := done()
		if ended || err != nil {
			return err
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// listenTimeout is how long an api may take until it listens.
const listenTimeout = 30 * time.Second

// serving runs do while an api serves a database. It passes the base URL of the api.
func (r *rig) serving(ctx context.Context, database string, do func(ctx context.Context, base string, api *os.Process) error) error {
	group, ctx := errgroup.WithContext(ctx)
	working, stop := context.WithCancel(ctx)
	defer stop()
	cmd := r.program(working, r.options.API, database)
	// The api logs each request, as it does in production.
	cmd.Env = append(cmd.Env, "LETHE_API_LISTEN=127.0.0.1:0", "LETHE_API_METRICS_LISTEN=", "LETHE_LOG_FORMAT=json", "LETHE_LOG_LEVEL=info")
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
