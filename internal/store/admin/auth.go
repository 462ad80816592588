package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// A Requester is the user of an access token: the user that the token puppets, or
// else its owner.
type Requester struct {
	UserID string

	// DeviceID is the access token's device, "" if it has none. A puppeting token has
	// none.
	DeviceID string

	// TokenID is the access token's own id, 0 if the token is not in the database.
	TokenID int64

	// Admin says that the user is a server admin.
	Admin bool

	// Guest says that the user is registered as a guest.
	Guest bool

	// Locked says that an admin has locked the account.
	Locked bool

	// TokenExpired says that the access token has expired.
	TokenExpired bool

	// AccountExpired says that the account has expired. It is false where accounts do
	// not expire.
	AccountExpired bool
}

const (
	// requesterSQL reads the flags of the puppeted user, not those of the token's
	// owner. A deactivated user keeps its admin flag, so the query must not find it at
	// all.
	requesterSQL = `
		SELECT u.name, coalesce(t.device_id, ''), t.id, u.admin = 1, u.is_guest = 1, u.locked,
		       coalesce(t.valid_until_ms::numeric < extract(epoch FROM now())::numeric * 1000.0, false),
		       coalesce((%s)::numeric <= extract(epoch FROM now())::numeric * 1000.0, false)
		FROM access_tokens t
		JOIN users u ON u.name = coalesce(t.puppets_user_id, t.user_id)
		WHERE t.token = $1 AND u.deactivated = 0`

	// expirationSQL is used only on request: Synapse fills the table only while
	// accounts expire, and old rows mean nothing after that.
	expirationSQL = `SELECT v.expiration_ts_ms FROM account_validity v WHERE v.user_id = u.name`

	// delegatedSQL reads only what Synapse still manages for delegated accounts: admin and
	// locked mean nothing there. A logout deletes the device before the token's answer is
	// outdated, so the device must exist. Hidden devices are keys for cross-signing.
	delegatedSQL = `
		SELECT u.is_guest = 1, coalesce((%s)::numeric <= extract(epoch FROM now())::numeric * 1000.0, false)
		FROM users u
		WHERE u.name = $1 AND u.deactivated = 0
		  AND ($2 = '' OR EXISTS (
		      SELECT FROM devices d WHERE d.user_id = u.name AND d.device_id = $2 AND d.hidden IS NOT TRUE))`
)

// Requester returns the user of an access token. An unknown token, and one whose
// user is deactivated, is [postgres.ErrNotFound]. A locked or expired requester is
// returned; the caller must refuse it. With accountValidity, accounts expire as
// Synapse's account_validity table says.
func (q *Queries) Requester(ctx context.Context, accessToken string, accountValidity bool) (Requester, error) {
	const operation = "find the requester"
	if !postgres.Storable(accessToken) {
		return Requester{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var r Requester
	err := q.db.ReadRow(ctx, []any{
		&r.UserID, &r.DeviceID, &r.TokenID, &r.Admin, &r.Guest, &r.Locked, &r.TokenExpired, &r.AccountExpired,
	}, fmt.Sprintf(requesterSQL, expiration(accountValidity)), accessToken)
	if err != nil {
		return Requester{}, fmt.Errorf("%s: %w", operation, err)
	}
	return r, nil
}

// Delegated returns the user of an access token that another service has checked, with
// the token's device, "" if it has none. An unknown or deactivated user, and one who
// does not have the device, is [postgres.ErrNotFound]. An expired requester is returned;
// the caller must refuse it. Accounts expire as in [Queries.Requester]. Who is an admin
// is up to the service.
func (q *Queries) Delegated(ctx context.Context, user, device string, accountValidity bool) (Requester, error) {
	const operation = "find the delegated account"
	if !postgres.Storable(user) || !postgres.Storable(device) {
		return Requester{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	r := Requester{UserID: user, DeviceID: device}
	query := fmt.Sprintf(delegatedSQL, expiration(accountValidity))
	if err := q.db.ReadRow(ctx, []any{&r.Guest, &r.AccountExpired}, query, user, device); err != nil {
		return Requester{}, fmt.Errorf("%s: %w", operation, err)
	}
	return r, nil
}

// expiration returns the SQL of the time at which an account expires, in ms.
func expiration(accountValidity bool) string {
	if accountValidity {
		return expirationSQL
	}
	return "NULL::bigint"
}
