package observe

import (
	"context"
	"log/slog"
	"slices"
)

// aboutKey is the context's key of what its work is about.
type aboutKey struct{}

// About returns a context whose work is about what the attributes say: a logger
// of [NewLogger] that is given it, by InfoContext and the like, writes them on its
// line, unless the line has an attribute of that name already. So a line that is
// written deep in a job's work, by who knows nothing of jobs, still says of which
// job it is. A second call adds to the first, and an attribute of the same name
// takes the place of the first one's.
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

// aboutHandler adds to each record what its context is about.
type aboutHandler struct {
	slog.Handler

	// keys are the names of the attributes that the logger has itself. Within a
	// group, names are other names: there nothing is known.
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
