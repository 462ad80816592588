package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestTransientAndUnreachable(t *testing.T) {
	t.Parallel()
	type verdict struct{ transient, unreachable bool }
	again, away, never := verdict{true, false}, verdict{true, true}, verdict{}
	cases := map[error]verdict{
		io.EOF:                   away,
		io.ErrUnexpectedEOF:      away,
		net.ErrClosed:            away,
		context.DeadlineExceeded: away,
		context.Canceled:         never,
		errors.New("EOF"):        never,
		journal.ErrFenced:        never,
		journal.ErrSuperseded:    never,
		purge.ErrCatalog:         never,
		&net.OpError{Op: "read", Err: errors.New("reset")}: away,
	}
	for verdict, codes := range map[verdict]string{
		away:  "08000 08006 08P01 57P01 57P02 57P03",
		again: "40001 40P01 53100 53200 53300 55P03 55006 57014 58030 25P03 23503",
		never: "22021 23505 23514 25001 42501 42P01 42703 42601 54001 P0001 XX000",
	} {
		for code := range strings.FieldsSeq(codes) {
			cases[&pgconn.PgError{Code: code}] = verdict
		}
	}
	for err, want := range cases {
		wrapped := fmt.Errorf("purge: %w", err)
		require.Equal(t, want, verdict{postgres.Transient(wrapped), postgres.Unreachable(wrapped)}, "%v", err)
	}

	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, nobody.Close())
	s, err := postgres.Open(t.Context(), "postgres://lethe@"+nobody.Addr().String()+"/x", postgres.Options{})
	require.NoError(t, err)
	defer s.Close()
	err = s.Ping(t.Context())
	require.Error(t, err)
	require.True(t, postgres.Unreachable(err))
}

func TestRefusedConnectionIsUnreachable(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	cfg := l.Conn.Config().Copy()
	cfg.User = "nobody"
	s, err := postgres.Open(l.Ctx, fmt.Sprintf("postgres://nobody@%s:%d/x", cfg.Host, cfg.Port), postgres.Options{})
	require.NoError(t, err)
	defer s.Close()
	err = s.Ping(l.Ctx)
	t.Log(err)
	require.True(t, postgres.Transient(err))
	require.True(t, postgres.Unreachable(err))
}

func TestErrorWithoutCodeIsNotTransient(t *testing.T) {
	t.Parallel()
	require.NotPanics(t, func() { postgres.Transient(&pgconn.PgError{}) })
}
