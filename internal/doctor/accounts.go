package doctor

import (
	"context"
	"errors"

	"lethe/internal/config"
	"lethe/internal/homeserver"
	"lethe/internal/mas"
)

// examineAccounts says where access tokens are checked, and whether that can work.
func (r *Report) examineAccounts(ctx context.Context, settings config.Config) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	switch at := settings.TokensAt(); {
	case at == config.AuthMAS:
		r.examineMAS(ctx, settings.MAS)
	case settings.Homeserver.URL != "":
		r.examineHomeserver(ctx, settings, at)
	case at == config.AuthHomeserver:
		r.add(Mend, "accounts", "access tokens are not in the database, because homeserver.config_file delegates the accounts: "+
			"set LETHE_MAS_URL and LETHE_MAS_SECRET, or LETHE_HOMESERVER_URL")
	default:
		r.add(OK, "accounts", "access tokens are looked up in the database")
	}
}

// examineMAS asks Matrix Authentication Service about a token that was made up.
func (r *Report) examineMAS(ctx context.Context, settings config.MAS) {
	if settings.Secret == "" {
		r.add(Mend, "accounts", "access tokens are checked at Matrix Authentication Service, which needs its secret: set LETHE_MAS_SECRET, "+
			"or let the doctor read the file that homeserver.config_file names")
		return
	}
	client, err := mas.New(settings.URL, string(settings.Secret), mas.Options{})
	if err != nil {
		r.add(Mend, "accounts", err.Error())
		return
	}
	defer client.Close()
	switch err := client.Check(ctx); {
	case errors.Is(err, mas.ErrSecret):
		r.add(Mend, "accounts", "Matrix Authentication Service refuses the secret: set LETHE_MAS_SECRET to matrix.secret of its configuration")
	case err != nil:
		r.add(Mend, "accounts", "access tokens cannot be checked: correct LETHE_MAS_URL, or start the service: "+err.Error())
	default:
		r.add(OK, "accounts", "access tokens are checked at Matrix Authentication Service, which answers and accepts the secret")
	}
}

// examineHomeserver asks the homeserver for what it can tell of access tokens, which are
// checked there or, unless it delegates its accounts, in the database.
func (r *Report) examineHomeserver(ctx context.Context, settings config.Config, at string) {
	client, err := homeserver.New(settings.Homeserver.URL, homeserver.Options{})
	if err != nil {
		r.add(Mend, "accounts", err.Error())
		return
	}
	defer client.Close()
	if at == config.AuthHomeserver {
		if err := client.Alive(ctx); err != nil {
			r.add(Mend, "accounts", "access tokens cannot be checked, because the homeserver does not answer: "+err.Error())
		} else {
			r.add(OK, "accounts", "access tokens are checked at the homeserver, which answers")
		}
		return
	}
	delegates, err := client.Delegates(ctx)
	switch {
	case err != nil:
		r.add(Advice, "accounts", "access tokens are looked up in the database, unless the homeserver delegates its accounts, which it cannot tell now: "+err.Error())
	case delegates && at == config.AuthDatabase:
		r.add(Mend, "accounts", "the homeserver delegates its accounts, so access tokens are not in the database: "+
			"set LETHE_MAS_URL and LETHE_MAS_SECRET, and unset LETHE_AUTH, or set LETHE_AUTH=homeserver")
	case delegates:
		r.add(Advice, "accounts", "access tokens are checked at the homeserver, because it delegates its accounts; "+
			"set LETHE_MAS_URL and LETHE_MAS_SECRET to check them while the homeserver is stopped")
	default:
		r.add(OK, "accounts", "access tokens are looked up in the database, because the homeserver keeps its accounts")
	}
}
