package pressure_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
	"lethe/internal/store/pressure"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A server has sessions, and a Reader that looks at it.
type server struct {
	t      *testing.T
	ctx    context.Context
	url    string
	admin  *pgx.Conn
	db     *postgres.DB
	reader *pressure.Reader
}

// start starts a server of the test's own, since it looks at the whole of it.
func start(t *testing.T) (*server, *devstack.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	process, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, process.Close()) })
	s := &server{t: t, ctx: ctx, url: process.URL("postgres")}
	s.open()
	for _, setting := range []string{
		"archive_mode = on", "archive_command = 'false'", "max_slot_wal_keep_size = '256MB'", "wal_level = logical", "autovacuum_naptime = '1s'",
	} {
		s.exec("ALTER SYSTEM SET " + setting)
	}
	require.NoError(t, s.admin.Close(ctx))
	require.NoError(t, process.Crash(ctx))
	require.NoError(t, process.Restart(ctx))
	s.open()
	return s, process
}

func (s *server) open() {
	s.t.Helper()
	s.admin = s.connect("psql")
	s.reader = s.readerAs(s.url)
}

func (s *server) readerAs(url string) *pressure.Reader {
	s.t.Helper()
	db, err := postgres.Open(s.ctx, url, postgres.Options{ApplicationName: "lethe worker", MaxConnections: 2})
	require.NoError(s.t, err)
	s.t.Cleanup(db.Close)
	s.db = db
	return pressure.New(db)
}

func (s *server) connect(name string) *pgx.Conn {
	s.t.Helper()
	config, err := pgx.ParseConfig(s.url)
	require.NoError(s.t, err)
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(s.ctx, config)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *server) exec(sql string) {
	s.t.Helper()
	_, err := s.admin.Exec(s.ctx, sql)
	require.NoError(s.t, err)
}

func (s *server) look() pressure.Look {
	s.t.Helper()
	look, err := s.reader.Look(s.ctx)
	require.NoError(s.t, err)
	return look
}

// until looks until something is seen.
func (s *server) until(what string, seen func(pressure.Look) bool) pressure.Look {
	s.t.Helper()
	var look pressure.Look
	require.Eventually(s.t, func() bool {
		look = s.look()
		return seen(look)
	}, time.Minute, 20*time.Millisecond, what)
	return look
}

func TestQuietServer(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	look := s.look()
	require.Positive(t, *look.Written)
	require.Empty(t, look.Standbys)
	require.False(t, look.Hidden)
	require.Nil(t, look.SlotBytes)
	require.Zero(t, *look.ArchiveSegments)
	require.Zero(t, *look.Autovacuums)
	require.Zero(t, *look.LockWaits)
}

func TestSlotsAndArchive(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.exec(`SELECT pg_create_physical_replication_slot('far', true), pg_create_physical_replication_slot('unused')`)
	before := s.look()
	require.Equal(t, "far", before.SlotName)
	require.Equal(t, int64(256<<20), before.SlotKeep)
	require.InDelta(t, before.SlotKeep, *before.SlotBytes, 32<<20, "it keeps hardly any WAL yet")
	s.exec(`SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, 40)`)
	s.exec(`SELECT pg_switch_wal()`)
	after := s.until("segments wait", func(look pressure.Look) bool { return *look.ArchiveSegments >= 2 })
	require.Less(t, *after.SlotBytes, *before.SlotBytes-30_000_000)
}

func TestStandbys(t *testing.T) {
	t.Parallel()
	s, process := start(t)
	standby, err := process.StartStandby(s.ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	s.exec(`SELECT pg_logical_emit_message(true, 'test', 'x')`)
	look := s.until("the standby follows", func(look pressure.Look) bool {
		return len(look.Standbys) == 1 && look.Standbys[0].Replayed == *look.Written
	})
	require.Equal(t, "walreceiver", look.Standbys[0].Name)

	primary := s.db

	// On the standby itself nothing is written.
	s.reader = s.readerAs(standby.URL("postgres"))
	require.Nil(t, s.look().Written)

	// A role without rights knows that it does not know.
	s.exec(`CREATE ROLE little LOGIN`)
	config, err := pgx.ParseConfig(s.url)
	require.NoError(t, err)
	s.reader = s.readerAs("host=" + config.Host + " port=" + portOf(config) + " user=little dbname=postgres sslmode=disable")
	look = s.look()
	require.True(t, look.Hidden)
	require.Empty(t, look.Standbys)
	require.Nil(t, look.ArchiveSegments)
	grant, blind, err := pressure.New(primary).Blind(s.ctx, "little")
	require.NoError(t, err)
	require.True(t, blind)
	require.Equal(t, `GRANT pg_monitor TO "little";`, grant)
	_, blind, err = pressure.New(primary).Blind(s.ctx, "")
	require.NoError(t, err)
	require.False(t, blind, "it is a superuser")
	s.exec(`GRANT pg_monitor TO little`)
	look = s.until("the rights", func(look pressure.Look) bool { return !look.Hidden })
	require.Len(t, look.Standbys, 1)
	require.NotNil(t, look.ArchiveSegments)
}

// A receiver takes part in streaming replication as a program does that is no server.
type receiver struct{ conn *pgconn.PgConn }

// receive starts a receiver by a command of the replication protocol.
func (s *server) receive(name, mode, start string) receiver {
	s.t.Helper()
	config, err := pgconn.ParseConfig(s.url)
	require.NoError(s.t, err)
	config.RuntimeParams["replication"], config.RuntimeParams["application_name"] = mode, name
	conn, err := pgconn.ConnectConfig(s.ctx, config)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Conn().Close() }) // a regular close waits for the end of the stream
	conn.Frontend().SendQuery(&pgproto3.Query{String: start})
	require.NoError(s.t, conn.Frontend().Flush())
	for {
		message, err := conn.ReceiveMessage(s.ctx)
		require.NoError(s.t, err)
		if _, begun := message.(*pgproto3.CopyBothResponse); begun {
			return receiver{conn}
		}
	}
}

// tell tells the server how far the receiver is. With an applied position of 0, the receiver
// applies nothing.
func (r receiver) tell(t *testing.T, written, flushed, applied int64) {
	t.Helper()
	status := []byte{'r'}
	for _, n := range []int64{written, flushed, applied, 0} {
		status = binary.BigEndian.AppendUint64(status, uint64(n))
	}
	r.conn.Frontend().Send(&pgproto3.CopyData{Data: append(status, 0)})
	require.NoError(t, r.conn.Frontend().Flush())
}

// Programs that receive WAL, and are no servers, tell what they have flushed when they like:
// pg_receivewal at the end of a segment, and a consumer of changes when a table changes that
// it wants. Both may have nothing left to receive for hours.
func TestReceiversThatAreNoServers(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.exec(`SELECT pg_create_physical_replication_slot('archive', true)`)
	s.exec(`CREATE PUBLICATION changes`)
	s.exec(`SELECT pg_create_logical_replication_slot('changes', 'pgoutput')`)
	early := *s.look().Written
	lsn := fmt.Sprintf("%X/%X", early>>32, early&0xffffffff)
	archive := s.receive("pg_receivewal", "true", `START_REPLICATION SLOT archive PHYSICAL `+lsn)
	consumer := s.receive("consumer", "database", `START_REPLICATION SLOT changes LOGICAL 0/0 (proto_version '1', publication_names 'changes')`)
	s.exec(`SELECT pg_logical_emit_message(true, 'test', repeat('x', 10000))`)
	written := *s.look().Written
	archive.tell(t, written, early, 0)
	consumer.tell(t, written, early, early)
	look := s.until("both have told where they are", func(look pressure.Look) bool {
		return len(look.Standbys) == 2 && look.Standbys[0].Replayed >= written && look.Standbys[1].Replayed >= written
	})
	require.False(t, look.Hidden)
}

func TestAutovacuum(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	// It sleeps 100 ms after each page.
	s.exec(`CREATE TABLE events WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
		autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1) AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)`)
	s.exec(`DELETE FROM events`)
	look := s.until("autovacuum begins", func(look pressure.Look) bool {
		s.exec(`SELECT 1`) // before PostgreSQL 15 an idle session does not tell what it has deleted
		return *look.Autovacuums == 1
	})
	require.Equal(t, []string{"events"}, look.Vacuumed)

	// Tables of other programs do not count.
	s.exec(`CREATE SCHEMA aside`)
	s.exec(`ALTER TABLE events SET SCHEMA aside`)
	s.exec(`CREATE TABLE events AS SELECT 1`)
	s.until("no table of the homeserver", func(look pressure.Look) bool { return *look.Autovacuums == 0 })
}

func TestXmin(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	old := s.connect("pg_dump")
	_, err := old.Exec(s.ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	_, err = old.Exec(s.ctx, `SELECT 1`)
	require.NoError(t, err)
	for range 20 {
		s.exec(`SELECT pg_current_xact_id()`)
	}
	require.GreaterOrEqual(t, *s.look().XminAge, int64(20))
	_, err = old.Exec(s.ctx, `ROLLBACK`)
	require.NoError(t, err)
	look := s.look()
	require.True(t, look.XminAge == nil || *look.XminAge < 20)
}

func TestLockWaits(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.exec(`CREATE TABLE t AS SELECT id, 1 AS n FROM generate_series(1, 3) AS id`)
	holder, other := s.connect("lethe worker"), s.connect("psql")
	_, err := holder.Exec(s.ctx, `BEGIN; UPDATE t SET n = 2 WHERE id < 3`)
	require.NoError(t, err)
	_, err = other.Exec(s.ctx, `BEGIN; UPDATE t SET n = 2 WHERE id = 3`)
	require.NoError(t, err)
	waits := make(chan error, 3)
	// Each waits for a row of its own, or one would wait for the other.
	for row, name := range map[int]string{1: "Synapse", 2: "lethe api", 3: "Synapse"} {
		conn := s.connect(name)
		go func() {
			_, err := conn.Exec(s.ctx, `UPDATE t SET n = 3 WHERE id = $1`, row)
			waits <- err
		}()
	}
	s.until("all wait", func(pressure.Look) bool {
		var n int
		require.NoError(t, s.admin.QueryRow(s.ctx, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&n))
		return n == 3
	})
	require.Equal(t, int64(1), *s.look().LockWaits, "Lethe does not brake because of itself, nor of others")
	for _, conn := range []*pgx.Conn{holder, other} {
		_, err = conn.Exec(s.ctx, `ROLLBACK`)
		require.NoError(t, err)
	}
	for range 3 {
		require.NoError(t, <-waits)
	}
	require.Zero(t, *s.look().LockWaits)
}

func portOf(config *pgx.ConnConfig) string { return strconv.Itoa(int(config.Port)) }
