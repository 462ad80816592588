package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// NewLogger returns a logger that writes one line per record to w, with the
// attributes that [About] has put into the context. The level is debug, info, warn or
// error; the format is text or json. Anything else means info and text.
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	options := new(slog.HandlerOptions)
	var minimum slog.Level
	if minimum.UnmarshalText([]byte(level)) == nil {
		options.Level = minimum
	}
	if format == "json" {
		return slog.New(aboutHandler{Handler: slog.NewJSONHandler(w, options)})
	}
	return slog.New(aboutHandler{Handler: slog.NewTextHandler(w, options)})
}

// AsynqLogger writes the log of asynq to a slog.Logger, with the same levels.
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

// Fatal implements [asynq.Logger]. It does not end the process, because only main may
// do that. asynq never calls it.
func (l AsynqLogger) Fatal(args ...any) { l.write(slog.LevelError, args) }

func (l AsynqLogger) write(level slog.Level, args []any) {
	l.log.Log(context.Background(), level, strings.TrimSpace(fmt.Sprint(args...)))
}

// SetRedisLogger makes go-redis write to log, with the attribute component=redis,
// instead of to standard error. This is set for the whole process: the last call
// wins.
func SetRedisLogger(log *slog.Logger) {
	redis.SetLogger(redisLogger{log.With("component", "redis")})
}

type redisLogger struct {
	log *slog.Logger
}

// Printf implements go-redis's logging interface, which has no levels. go-redis only
// logs failed connections, and it tries again by itself: so each line is a warning.
func (l redisLogger) Printf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// aboutKey is the key of a context's attributes.
type aboutKey struct{}

// About returns a context with attributes for the log. When a logger of [NewLogger]
// gets this context, for example by InfoContext, it adds the attributes to the line,
// unless the line has an attribute of the same name. So code that knows nothing
// of jobs still logs which job it works for. A second call adds more attributes,
// and replaces those of the same name.
func About(ctx context.Context, attributes ...slog.Attr) context.Context {
	before, _ := ctx.Value(aboutKey{}).([]slog.Attr)
	all := make([]slog.Attr, 0, len(before)+len(attributes))
	for _, attribute := range before {
		if !slices.ContainsFunc(attributes, func(a slog.Attr) bool { return a.Key == attribute.Key }) {
			all = append(all, attribute)
		}
	}
	return context.WithValue(ctx, aboutKey{}, append(all, attributes...))
}

// aboutHandler adds the attributes of the context to each record.
type aboutHandler struct {
	slog.Handler

	// keys are the names of the logger's own attributes. Inside a group they are
	// not complete.
	keys []string
}

// Handle implements [slog.Handler].
func (h aboutHandler) Handle(ctx context.Context, record slog.Record) error {
	if about, _ := ctx.Value(aboutKey{}).([]slog.Attr); len(about) > 0 {
		keys := slices.Clone(h.keys)
		record.Attrs(func(a slog.Attr) bool {
			keys = append(keys, a.Key)
			return true
		})
		record = record.Clone()
		for _, attribute := range about {
			if !slices.Contains(keys, attribute.Key) {
				record.AddAttrs(attribute)
			}
		}
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs implements [slog.Handler].
func (h aboutHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	keys := slices.Clone(h.keys)
	for _, attribute := range attributes {
		keys = append(keys, attribute.Key)
	}
	return aboutHandler{h.Handler.WithAttrs(attributes), keys}
}

// WithGroup implements [slog.Handler].
func (h aboutHandler) WithGroup(name string) slog.Handler {
	return aboutHandler{h.Handler.WithGroup(name), h.keys}
}
