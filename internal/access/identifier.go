package access

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"lethe/internal/expiring"
	"lethe/internal/homeserver"
	"lethe/internal/mas"
	"lethe/internal/messages"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// An identifier finds out for whom an access token speaks. It returns the caller
// without the token. The error for a caller who may not send any request is a
// [wire.Error].
type identifier func(r *http.Request, token string) (messages.Reader, error)

// identifiers returns the identifier for each request, and one for requests that only
// read history. Both use the given identifier where the homeserver is not asked. The
// homeserver's answers are remembered anyway, and depend on more than the token.
func (o Options) identifiers(database identifier) (each, recently identifier) {
	remembered := newRecentCallers().before(database)
	if o.Homeserver == nil || o.MAS != nil {
		return database, remembered
	}
	homeserver := atHomeserver(homeserver.NewAccounts(o.Homeserver, homeserver.AccountsOptions{}))
	if o.Delegated == nil {
		return homeserver, homeserver
	}
	either := func(database identifier) identifier {
		return func(r *http.Request, token string) (messages.Reader, error) {
			if o.Delegated() {
				return homeserver(r, token)
			}
			return database(r, token)
		}
	}
	return either(database), either(remembered)
}

// inDatabase returns an identifier that looks tokens up in the database.
func inDatabase(db *postgres.DB, accountValidity bool) identifier {
	accounts := admin.New(db)
	return func(r *http.Request, token string) (messages.Reader, error) {
		requester, err := accounts.Requester(r.Context(), token, accountValidity)
		switch {
		case errors.Is(err, postgres.ErrNotFound):
			return messages.Reader{}, ErrUnknownToken
		case err != nil:
			return messages.Reader{}, err
		case requester.TokenExpired:
			return messages.Reader{}, errExpiredToken
		case requester.Locked:
			return messages.Reader{}, errLocked
		case requester.AccountExpired:
			return messages.Reader{}, errExpiredAccount
		}
		return messages.Reader{
			UserID: requester.UserID, DeviceID: requester.DeviceID, TokenID: requester.TokenID,
			Guest: requester.Guest, Admin: requester.Admin,
		}, nil
	}
}

// atHomeserver returns an identifier that asks a homeserver. It believes every
// answer: an application service that speaks for an admin is an admin.
func atHomeserver(accounts *homeserver.Accounts) identifier {
	return func(r *http.Request, token string) (messages.Reader, error) {
		user, _ := wire.NewQuery(r.URL.RawQuery).Value("user_id")
		account, err := accounts.Account(r.Context(), token, user)
		var refusal *homeserver.Error
		switch {
		case err == nil:
		case r.Context().Err() != nil:
			return messages.Reader{}, err
		case errors.As(err, &refusal) && (refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusForbidden):
			return messages.Reader{}, &wire.Error{
				Status: refusal.Status, Code: refusal.Code, Text: refusal.Text, SoftLogout: refusal.SoftLogout,
			}
		default:
			return messages.Reader{}, fmt.Errorf("%w: %w", errCannotAsk, err)
		}
		switch {
		case account.Deactivated:
			return messages.Reader{}, ErrUnknownToken
		case account.Locked:
			return messages.Reader{}, errLocked
		}
		return messages.Reader{
			UserID: account.UserID, DeviceID: account.DeviceID,
			Guest: account.Guest, AppService: account.AppService, Admin: account.Admin,
		}, nil
	}
}

// atMAS returns an identifier that asks Matrix Authentication Service about tokens, and
// then the database about their users. So a user who is deactivated, and a device that
// is logged out, is refused at once, although the service's answers are remembered.
func atMAS(db *postgres.DB, options Options) identifier {
	accounts := admin.New(db)
	return func(r *http.Request, accessToken string) (messages.Reader, error) {
		token, err := options.MAS.Token(r.Context(), accessToken)
		switch {
		case err == nil:
		case r.Context().Err() != nil:
			return messages.Reader{}, err
		case errors.Is(err, mas.ErrInactive):
			return messages.Reader{}, ErrUnknownToken
		case errors.Is(err, mas.ErrScope):
			return messages.Reader{}, errScope
		case errors.Is(err, mas.ErrNoUser):
			return messages.Reader{}, errNoUser
		default:
			return messages.Reader{}, fmt.Errorf("%w: %w", errCannotIntrospect, err)
		}
		user := "@" + token.Username + ":" + options.ServerName
		requester, err := accounts.Delegated(r.Context(), user, token.DeviceID, options.AccountValidity)
		switch {
		case errors.Is(err, postgres.ErrNotFound):
			return messages.Reader{}, ErrUnknownToken
		case err != nil:
			return messages.Reader{}, err
		case requester.AccountExpired:
			return messages.Reader{}, errExpiredAccount
		}
		return messages.Reader{
			UserID: requester.UserID, DeviceID: requester.DeviceID, Guest: requester.Guest, Admin: token.Admin,
		}, nil
	}
}

const (
	// recentTTL is how long the caller of an access token is remembered, for
	// requests that only read history. A client reads page after page.
	recentTTL = 2 * time.Second

	// maxRecent bounds the number of access tokens that are remembered.
	maxRecent = 10_000
)

// recentCallers remembers for a moment for whom access tokens speak, by a hash of
// each. Refusals are not remembered. It is safe for concurrent use.
type recentCallers struct {
	byToken *expiring.Map[tokenHash, messages.Reader]
}

func newRecentCallers() *recentCallers {
	return &recentCallers{byToken: expiring.New[tokenHash, messages.Reader](maxRecent)}
}

// before returns an identifier that calls the given one only for tokens that are
// not remembered.
func (c *recentCallers) before(identify identifier) identifier {
	return func(r *http.Request, token string) (messages.Reader, error) {
		hash := hashOf(token)
		if reader, ok := c.byToken.Get(hash); ok {
			return reader, nil
		}
		asked := time.Now()
		reader, err := identify(r, token)
		if err == nil {
			c.byToken.Put(hash, reader, recentTTL-time.Since(asked))
		}
		return reader, err
	}
}
