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

	// TokenID is the access token's own id.
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
		       coalesce(t.valid_until_ms < extract(epoch FROM now()) * 1000, false),
		       coalesce((%s) <= extract(epoch FROM now()) * 1000, false)
		FROM access_tokens t
		JOIN users u ON u.name = coalesce(t.puppets_user_id, t.user_id)
		WHERE t.token = $1 AND u.deactivated = 0`

	// expirationSQL is used only on request: Synapse fills the table only while
	// accounts expire, and old rows mean nothing after that.
	expirationSQL = `SELECT v.expiration_ts_ms FROM account_validity v WHERE v.user_id = u.name`
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
	expiration := "NULL::bigint"
	if accountValidity {
		expiration = expirationSQL
	}
	var r Requester
	err := q.db.ReadRow(ctx, []any{
		&r.UserID, &r.DeviceID, &r.TokenID, &r.Admin, &r.Guest, &r.Locked, &r.TokenExpired, &r.AccountExpired,
	}, fmt.Sprintf(requesterSQL, expiration), accessToken)
	if err != nil {
		return Requester{}, fmt.Errorf("%s: %w", operation, err)
	}
	return r, nil
}
