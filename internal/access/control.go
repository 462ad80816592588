package access

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"lethe/internal/homeserver"
	"lethe/internal/mas"
	"lethe/internal/messages"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// Options are the settings of a [Control].
type Options struct {
	// AccountValidity says that accounts can expire, so that Synapse's
	// account_validity table is read for each access token. Defaults to false.
	AccountValidity bool

	// Delegated reports whether Homeserver delegates its accounts. While it does not,
	// tokens are looked up in the database. Defaults to nil, which always asks
	// Homeserver.
	Delegated func() bool

	// Homeserver is asked for whom an access token speaks. Defaults to nil, which
	// looks tokens up in the database.
	Homeserver *homeserver.Client

	// MAS is asked for whom an access token speaks, instead of Homeserver and the
	// database. It needs ServerName. Defaults to nil, which asks the others.
	MAS *mas.Client

	// ServerName is the homeserver's name, which MAS's users are on. Defaults to "".
	ServerName string

	// TrustedProxies are the networks of the proxies whose X-Forwarded-For header is
	// believed. Defaults to none, so that wrong tokens count for the address at the
	// other end of the connection.
	TrustedProxies []netip.Prefix

	// UnlimitedUsers says that wrong tokens of users are not limited, because the
	// homeserver answers their requests. Those of admins are. Defaults to false.
	UnlimitedUsers bool
}

// A Control finds out who sends requests. It is safe for concurrent use.
type Control struct {
	trustedProxies []netip.Prefix
	guesses        *guesses

	// The identifiers for admins and for users. Those of recent callers may return
	// what was true a moment ago.
	admin, recentAdmin, user, recentUser identifier
}

// New returns a Control that reads from db.
func New(db *postgres.DB, options Options) *Control {
	c := &Control{trustedProxies: options.TrustedProxies, guesses: newGuesses()}
	database := inDatabase(db, options.AccountValidity)
	if options.MAS != nil {
		database = atMAS(db, options)
	}
	identify, recently := options.identifiers(database)
	c.admin, c.recentAdmin = c.limited(identify), c.limited(recently)
	c.user, c.recentUser = c.admin, c.recentAdmin
	if options.UnlimitedUsers {
		c.user, c.recentUser = identify, recently
	}
	return c
}

// Admin returns the server admin who sends the request.
func (c *Control) Admin(r *http.Request) (messages.Reader, error) {
	return requireAdmin(caller(r, c.admin))
}

// RecentAdmin is Admin for a request that only reads history. It may return what
// was true up to 2 s ago.
func (c *Control) RecentAdmin(r *http.Request) (messages.Reader, error) {
	return requireAdmin(caller(r, c.recentAdmin))
}

// BrowserAdmin is Admin for a page that a browser shows: the access token may be
// the password of HTTP basic authentication, with any user, and it may not be in
// the query.
func (c *Control) BrowserAdmin(r *http.Request) (messages.Reader, error) {
	token, err := browserTokenOf(r)
	if err != nil {
		return messages.Reader{}, err
	}
	return requireAdmin(c.admin(r, token))
}

// Viewer is Admin for a page whose session has the access token, and that some users may
// see besides server admins: the readers, by their user ids. Nothing else of the request
// counts than where it comes from.
func (c *Control) Viewer(r *http.Request, token string, readers []string) (messages.Reader, error) {
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return messages.Reader{}, ErrUnknownToken
	}
	sent := *r
	sent.URL = &url.URL{Path: r.URL.Path} // a query may not say for whom an application service speaks
	reader, err := c.admin(&sent, token)
	if err == nil && !reader.Guest && slices.Contains(readers, reader.UserID) {
		return reader, nil
	}
	return requireAdmin(reader, err)
}

// User returns the user who sends the request, who may be a guest.
func (c *Control) User(r *http.Request) (messages.Reader, error) { return caller(r, c.user) }

// RecentUser is User for a request that only reads history. It may return what was
// true up to 2 s ago.
func (c *Control) RecentUser(r *http.Request) (messages.Reader, error) {
	return caller(r, c.recentUser)
}

// caller returns who sends the request.
func caller(r *http.Request, identify identifier) (messages.Reader, error) {
	token, err := tokenOf(r)
	if err != nil {
		return messages.Reader{}, err
	}
	reader, err := identify(r, token)
	if err != nil {
		return messages.Reader{}, err
	}
	// A homeserver that asks Lethe for history must not be asked for it in turn.
	if r.Header.Get(homeserver.ForHistoryHeader) == "" {
		reader.AccessToken = token
	}
	return reader, nil
}

func requireAdmin(reader messages.Reader, err error) (messages.Reader, error) {
	switch {
	case err != nil:
		return messages.Reader{}, err
	case reader.Guest:
		return messages.Reader{}, ErrGuest
	case !reader.Admin:
		return messages.Reader{}, errNotAdmin
	}
	return reader, nil
}

// limited returns an identifier that refuses to call the given one while too many
// wrong tokens come from the request's address.
func (c *Control) limited(identify identifier) identifier {
	return func(r *http.Request, token string) (messages.Reader, error) {
		address := clientAddress(r, c.trustedProxies)
		if wait := c.guesses.wait(address, token); wait > 0 {
			return messages.Reader{}, tooManyWrong(wait)
		}
		reader, err := identify(r, token)
		var refused *wire.Error
		switch {
		case err == nil:
			c.guesses.addGood(token)
		case errors.As(err, &refused) && refused.Code == ErrUnknownToken.Code && !wasGood(refused):
			c.guesses.addWrong(address, token)
		}
		return reader, err
	}
}

// wasGood reports whether a refused access token was good once.
func wasGood(refused *wire.Error) bool { return refused.SoftLogout != nil && *refused.SoftLogout }
