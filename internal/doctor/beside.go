package doctor

import (
	"context"
	"errors"

	"lethe/internal/config"
	"lethe/internal/homeserver"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/store/postgres"
	"lethe/internal/synapse"
)

// examineBeside reports whether a Synapse is at work on the database, and how it learns
// of purges.
func (r *Report) examineBeside(ctx context.Context, db *postgres.DB, settings config.Config) {
	const about = "beside"
	fail := func(err error) { r.add(Mend, about, err.Error()) }
	options := synapse.Options{
		Mode: synapse.Mode(settings.SynapseBeside), ServerName: settings.ServerName, Metrics: observe.NewMetrics(observe.NewRegistry()),
	}
	if url := settings.Homeserver.URL; url != "" {
		client, err := homeserver.New(url, homeserver.Options{})
		if err != nil {
			fail(err)
			return
		}
		defer client.Close()
		options.Alive = client.Alive
	}
	if url := settings.Homeserver.RedisURL; url != "" && settings.ServerName != "" {
		client, err := redisdb.Open(string(url))
		if err != nil {
			fail(err)
			return
		}
		defer func() { _ = client.Close() }()
		options.Redis = client
	}
	s := synapse.New(db, options)
	if err := s.Find(ctx); err != nil {
		fail(err)
		return
	}
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Listen(listening)
	}()
	defer func() {
		stop()
		<-done
	}()
	present, why, err := s.Present(ctx)
	if err != nil {
		fail(err)
		return
	}
	way, err := s.Ready(ctx)
	var waiting *synapse.Waiting
	switch {
	case errors.As(err, &waiting):
		r.add(Mend, about, "jobs wait: "+waiting.Reason)
	case err != nil:
		fail(err)
	case !present:
		r.add(OK, about, why)
	case settings.Homeserver.ASToken == "":
		r.add(Advice, about, "Synapse runs: "+why+"; set homeserver.url and homeserver.as_token, because only Synapse can make "+
			"users leave a room, and deletes wait until it can")
	case way == synapse.ByTask:
		r.add(OK, about, "Synapse runs: "+why+"; it is told of purges through its tasks, which takes up to a minute for each job; "+
			"if it has Redis, set homeserver.redis_url")
	default:
		r.add(OK, about, "Synapse runs: "+why+"; it is told of purges through its Redis")
	}
}
