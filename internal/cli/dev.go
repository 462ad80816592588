package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/console"
	"lethe/internal/devstack"
	"lethe/internal/httpapi"
	"lethe/internal/matrix"
	"lethe/internal/monitor"
	"lethe/internal/observe"
	"lethe/internal/process"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
	"lethe/internal/wait"
)

const (
	devServer   = "lethe.test"
	devDatabase = "lethe"
)

func (a *app) dev() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "dev",
		Short: "run everything in one process, with demo rooms",
		Long: `Runs everything in one process, with a PostgreSQL and a Redis of its own and three demo
rooms. It deletes their data when it ends.`,
		Example: `  lethe dev
  lethe dev --listen 127.0.0.1:8500`,
		Args: command.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			// Before the servers start, which takes some seconds.
			address, err := freeAddress(c.Context(), listen)
			if err != nil {
				return command.Usage("--listen %q: %w", listen, err)
			}
			err = a.runDev(c.Context(), c.OutOrStdout(), address)
			if c.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil // Ctrl-C while it was starting
			}
			return err
		},
	}
	c.Flags().StringVar(&listen, "listen", config.Default().API.Listen, "`host:port` of the API; dev takes another port if this one is in use")
	return c
}

// runDev runs everything until the context ends. The API listens on the address.
func (a *app) runDev(ctx context.Context, out io.Writer, address string) (err error) {
	say := func(text string) { _, _ = fmt.Fprint(out, text) } // a lost line does not stop it
	settings, err := config.Load(a.environ)
	if err != nil {
		return err
	}
	say("Starting PostgreSQL and Redis …\n")
	postgres, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postgres.Close()) }()
	redis, err := devstack.StartRedis(ctx, devstack.RedisOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()

	say("Creating three rooms, the largest with 20,000 events …\n")
	if err := postgres.CreateDatabase(ctx, devDatabase, ""); err != nil {
		return err
	}
	url := postgres.URL(devDatabase)
	token := "demo_" + rand.Text()
	rooms, err := populate(ctx, url, devServer, token)
	if err != nil {
		return err
	}

	// The rooms have members on other servers, which accept only signed events.
	dir, err := os.MkdirTemp("", "lethe-dev-")
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	settings.SigningKeyFile = filepath.Join(dir, "signing.key")
	if err := os.WriteFile(settings.SigningKeyFile, []byte(matrix.GenerateSigningKey()), 0o600); err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}

	settings.API.Listen = address
	if settings.API.MetricsListen, err = freeAddress(ctx, settings.API.MetricsListen); err != nil {
		return err
	}
	settings.Database.URL, settings.Redis.URL = config.Secret(url), config.Secret(redis.URL())
	settings.ServerName = devServer
	isSet := func(variable string) bool { return strings.HasPrefix(variable, "LETHE_CONSOLE_ENABLED=") }
	settings.Console.Enabled = settings.Console.Enabled || !slices.ContainsFunc(a.environ, isSet)
	settings.Worker.Listen, settings.Scheduler.Listen = "", "" // the api serves their health and metrics
	log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)

	// The greeting is printed when the api is ready.
	ctx, cancel := context.WithCancel(ctx)
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		if awaitReady(ctx, "http://"+settings.API.Listen+"/readyz") {
			say(greeting(settings.API, token, url, rooms))
		}
	}()
	defer func() { cancel(); <-greeted }()
	return process.Run(ctx, settings, log, monitor.New, config.ForAPI, config.ForWorker, config.ForScheduler)
}

// adminOf returns the user id of the admin of a demo server.
func adminOf(server string) string { return "@admin:" + server }

// populate creates the schema, an admin with the access token, and the demo rooms. It
// returns [roomgen.ErrExists] if the rooms exist.
func populate(ctx context.Context, url, server, token string) ([]roomgen.Summary, error) {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to the new database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := roomgen.Account(ctx, conn, adminOf(server), token, true); err != nil {
		return nil, err
	}
	return roomgen.Demo(ctx, conn, server, time.Now())
}

// freeAddress returns the address, or one with a free port if it is in use.
func freeAddress(ctx context.Context, address string) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(address)
		if splitErr != nil {
			return "", fmt.Errorf("listen for HTTP: %w", splitErr)
		}
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "0")); err != nil {
			return "", fmt.Errorf("listen for HTTP: %w", err)
		}
	}
	return listener.Addr().String(), listener.Close()
}

// awaitReady requests the URL until the status is 200. It reports false if the
// context ends first.
func awaitReady(ctx context.Context, url string) bool {
	always := func(error) bool { return true }
	return wait.Retry(ctx, wait.Backoff{Min: 50 * time.Millisecond}, always, func() error {
		_, err := get(ctx, url)
		return err
	}) == nil
}

// greeting returns what dev prints when the api is ready.
func greeting(api config.API, token, database string, rooms []roomgen.Summary) string {
	url := "http://" + api.Listen
	text := "\nLethe is ready.\n\n  URL          " + url +
		"\n  admin token  " + token +
		"\n  console      " + url + console.Root + "/   (sign in with the token)" +
		"\n  asynqmon     " + url + httpapi.MonitorRoot + "   (any user; the token is the password)" +
		"\n  metrics      http://" + api.MetricsListen + "/metrics" +
		"\n  PostgreSQL   " + database +
		"\n  environment  export LETHE_API_URL=" + url + " LETHE_TOKEN=" + token + "   (then: bin/lethe job list)\n\nRooms:\n"
	for _, room := range rooms {
		text += fmt.Sprintf("  %-40s %6d events, made by %s\n", room.Room, room.Events, room.Creator)
	}
	return text + fmt.Sprintf(`
Try, in another terminal:

  1. purge the largest room: all messages that are older than an hour
     PURGE=$(curl -s -X POST -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v1/purge_history/%[3]s' -d "{\"delete_local_events\": true, \"purge_up_to_ts\": $(( $(date +%%s) - 3600 ))000}" | grep -o '[A-Za-z]\{16\}'); echo $PURGE

  2. show the status of the purge
     curl -s -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v1/purge_history_status/'$PURGE

  3. delete another room: its users move to a new room, and then the old room is purged
     curl -s -X DELETE -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v2/rooms/%[5]s' -d '{"new_room_user_id": "%[6]s", "room_name": "Moved", "message": "We are here now."}'

  4. show who has left the room, and list all rooms
     curl -s -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v2/rooms/%[5]s/delete_status'
     curl -s -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v1/rooms'

  5. read the newest messages of the third room; for the next page, add from= with the value of "end"
     curl -s -H 'Authorization: Bearer %[2]s' '%[1]s/_synapse/admin/v1/rooms/%[7]s/messages?dir=b&limit=3'

  6. look at the jobs in the database
     psql '%[4]s' -xc "SELECT id, kind, state, checkpoint, ended_at - started_at AS took FROM lethe.jobs"

  7. try retention: start Lethe again like this, wait a minute, and look at the jobs
     LETHE_RETENTION_ENABLED=true LETHE_RETENTION_DEFAULT_POLICY_MAX_LIFETIME=1h LETHE_RETENTION_PURGE_JOBS='[{interval: 1m}]' make run

Ctrl-C stops everything and deletes the data.

`, url, token, rooms[0].Room, database, rooms[1].Room, rooms[1].Creator, rooms[2].Room)
}

func (a *app) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "create Synapse's tables, an admin and three rooms in an empty database",
		Long: `Creates Synapse's tables, an admin and three rooms, to try Lethe on. The database
LETHE_DATABASE_URL must be empty, or created by an earlier demo. LETHE_SERVER_NAME is the
server of the rooms. It fails on a database that Synapse created, and changes nothing
there.`,
		Example: `  LETHE_DATABASE_URL=postgres://lethe@127.0.0.1/demo LETHE_SERVER_NAME=demo.test lethe demo`,
		Args:    command.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.runDemo(c.Context(), c.OutOrStdout())
		},
	}
}

func (a *app) runDemo(ctx context.Context, out io.Writer) error {
	settings, err := config.Load(a.environ, config.ForDatabase)
	if err != nil {
		return err
	}
	if settings.ServerName == "" {
		return errors.New("demo: set LETHE_SERVER_NAME to the name of the server of the rooms, such as " + devServer)
	}
	token := "demo_" + rand.Text()
	rooms, err := populate(ctx, string(settings.Database.URL), settings.ServerName, token)
	if err != nil && !errors.Is(err, roomgen.ErrExists) {
		return err
	}
	for _, room := range rooms {
		if _, err := fmt.Fprintf(out, "%-40s %6d events, made by %s\n", room.Room, room.Events, room.Creator); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "access token of %s (each run creates a new one): %s\n", adminOf(settings.ServerName), token)
	return err
}
