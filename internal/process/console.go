package process

import (
	"net/http"

	"lethe/internal/access"
	"lethe/internal/console"
	"lethe/internal/console/session"
)

// console returns what makes the console, nil unless it is enabled.
func (p *process) console() func(*access.Control) http.Handler {
	settings := p.settings.Console
	if !settings.Enabled {
		return nil
	}
	return func(control *access.Control) http.Handler {
		return console.New(control, p.operator(), session.New(p.redis, p.names, settings.SessionTime), console.Options{
			Log: p.log, Observe: p.observe, Readers: settings.Readers,
		})
	}
}
