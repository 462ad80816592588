package process

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"lethe/internal/config"
	"lethe/internal/wait"
)

// ErrDelegated is returned by a process that is to look access tokens up in the
// database, if the homeserver delegates its accounts. Tokens are not in the database
// then, and what is there may be of users who have logged out since.
var ErrDelegated = errors.New("LETHE_AUTH is database, but the homeserver delegates its accounts to another service, so access tokens are not in the database: " +
	"set LETHE_MAS_URL and LETHE_MAS_SECRET for Matrix Authentication Service, and unset LETHE_AUTH, or set LETHE_AUTH=homeserver")

const (
	// minAskAgain and maxAskAgain bound the wait before a homeserver that could not tell
	// is asked again, before jitter.
	minAskAgain = time.Second
	maxAskAgain = time.Minute

	// askAnyway is the wait before a homeserver that keeps its accounts is asked again:
	// its operator may delegate them while Lethe runs.
	askAnyway = 10 * time.Minute
)

// A delegation finds out whether the homeserver delegates its accounts. Its methods but
// delegates serve one goroutine at a time.
type delegation struct {
	// ask is [homeserver.Client.Delegates].
	ask func(context.Context) (bool, error)
	log *slog.Logger

	// refuse makes it an error if the homeserver does.
	refuse bool

	// delegates says that the homeserver does. It stays so.
	delegates atomic.Bool

	// asked says that there was an attempt, and answered that the last one had an answer.
	asked, answered bool
}

// newDelegation returns a delegation if a process checks access tokens in a way that
// depends on it, or else nil.
func (p *process) newDelegation() *delegation {
	at := p.settings.TokensAt()
	if !p.checksTokens() || p.homeserver == nil || at != config.AuthAuto && at != config.AuthDatabase {
		return nil
	}
	return &delegation{ask: p.homeserver.Delegates, log: p.log, refuse: at == config.AuthDatabase}
}

// checksTokens reports whether the process serves a purpose that checks access tokens.
func (p *process) checksTokens() bool { return p.serves(config.ForAPI) || p.serves(config.ForAsynqmon) }

// look asks the homeserver once. It returns [ErrDelegated] if the answer cannot be
// accepted, and nil otherwise.
func (d *delegation) look(ctx context.Context) error {
	delegates, err := d.ask(ctx)
	if ctx.Err() != nil {
		return nil // the process is stopping
	}
	if err != nil && (d.answered || !d.asked) { // the homeserver may be away for long
		d.log.WarnContext(ctx, "the homeserver cannot tell whether it delegates its accounts; until then access tokens are looked up in the database", "error", err)
	}
	d.asked, d.answered = true, err == nil
	switch {
	case delegates && d.refuse:
		return ErrDelegated
	case delegates:
		d.delegates.Store(true)
		d.log.InfoContext(ctx, "the homeserver delegates its accounts, so it is asked about access tokens")
	}
	return nil
}

// watch looks again from time to time, until the homeserver delegates its accounts or
// the context ends.
func (d *delegation) watch(ctx context.Context) error {
	backoff := wait.Backoff{Min: minAskAgain, Max: maxAskAgain}
	for !d.delegates.Load() {
		var err error
		if d.answered {
			backoff.Reset()
			err = wait.For(ctx, wait.Jitter(askAnyway))
		} else {
			err = backoff.Wait(ctx)
		}
		if err != nil {
			return nil // the process is stopping
		}
		if err := d.look(ctx); err != nil {
			return err
		}
	}
	return nil
}
