package cli

import (
	"context"
	"log/slog"
	"net/http"

	"lethe/internal/config"
	"lethe/internal/process"
)

// openLocalAPI is the [LocalAPI] of this program: the API of an api, on the database of
// the settings.
func openLocalAPI(ctx context.Context, settings config.Config, who string) (http.Handler, func(), error) {
	// A command says what has failed itself.
	return process.Local(ctx, settings, who, slog.New(slog.DiscardHandler))
}
