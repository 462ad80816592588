package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// NewLogger returns a logger that writes one line per record to w, with what its
// context is [About]. Level is
// debug, info, warn or error; format is text or json. The configuration admits
// no others; here they mean info and text.
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	options := new(slog.HandlerOptions)
	var least slog.Level
	if least.UnmarshalText([]byte(level)) == nil {
		options.Level = least
	}
	if format == "json" {
		return slog.New(aboutHandler{Handler: slog.NewJSONHandler(w, options)})
	}
	return slog.New(aboutHandler{Handler: slog.NewTextHandler(w, options)})
}

// AsynqLogger writes what asynq logs to a slog.Logger, at the same levels.
type AsynqLogger struct {
	log *slog.Logger
}

var _ asynq.Logger = AsynqLogger{}

// NewAsynqLogger returns an [asynq.Logger] that writes to log, with the
// attribute component=asynq.
func NewAsynqLogger(log *slog.Logger) AsynqLogger {
	return AsynqLogger{log.With("component", "asynq")}
}

// Debug implements [asynq.Logger].
func (l AsynqLogger) Debug(args ...any) { l.write(slog.LevelDebug, args) }

// Info implements [asynq.Logger].
func (l AsynqLogger) Info(args ...any) { l.write(slog.LevelInfo, args) }

// Warn implements [asynq.Logger].
func (l AsynqLogger) Warn(args ...any) { l.write(slog.LevelWarn, args) }

// Error implements [asynq.Logger].
func (l AsynqLogger) Error(args ...any) { l.write(slog.LevelError, args) }

// Fatal implements [asynq.Logger], but for ending the process, which only main
// may do. asynq does not call it.
func (l AsynqLogger) Fatal(args ...any) { l.write(slog.LevelError, args) }

func (l AsynqLogger) write(level slog.Level, args []any) {
	l.log.Log(context.Background(), level, strings.TrimSpace(fmt.Sprint(args...)))
}

// SetRedisLogger makes go-redis log to log, with the attribute component=redis,
// instead of to standard error. It is for the whole process; the last call
// wins.
func SetRedisLogger(log *slog.Logger) {
	redis.SetLogger(redisLogger{log.With("component", "redis")})
}

type redisLogger struct {
	log *slog.Logger
}

// Printf implements go-redis's logging interface. go-redis tells no levels. By
// default it speaks up only when a connection fails, and then tries again by
// itself, so all it says is a warning.
func (l redisLogger) Printf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, strings.TrimSpace(fmt.Sprintf(format, args...)))
}
