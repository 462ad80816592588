package observe

import (
	"context"
	"log/slog"
	"slices"
)

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
