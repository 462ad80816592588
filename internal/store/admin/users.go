package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A User is a local user in a list. Texts and times are nil where the homeserver has none.
type User struct {
	ID          string
	Type        *string
	Guest       bool
	Admin       bool
	Deactivated bool

	ShadowBanned        bool
	DisplayName, Avatar *string

	// CreatedTS and LastSeenTS are in Unix milliseconds.
	CreatedTS *int64

	Approved, Erased bool
	LastSeenTS       *int64
	Locked           bool
}

// A UserList says which users to list.
type UserList struct {
	// From is the number of users to skip, and Limit the maximum number to return.
	From, Limit int64

	// Order is the order of the list: name, displayname, is_guest, admin, deactivated,
	// user_type, avatar_url, shadow_banned, creation_ts, last_seen_ts or locked. Users that
	// are equal are ordered by their ids. Reverse reverses the order, but not that of
	// equal users.
	Order   string
	Reverse bool

	// Name, unless "", must be part of the id before its colon or of the display name.
	// Otherwise ID, unless "", must be part of the id. Both ignore the letter case.
	Name, ID string

	// NoGuests and NoLocked leave out such users. Deactivated and Admin, unless nil, must
	// match the user.
	NoGuests, NoLocked bool
	Deactivated, Admin *bool

	// NotTypes are the types of users that are left out; "" is that of users without a
	// type. Defaults to nil, which leaves out no type.
	NotTypes []string
}

// userOrders maps each order to its column. Output columns are as in userSQL.
var userOrders = map[string]string{
	"name": "u.name", "displayname": "p.displayname", "is_guest": "u.is_guest", "admin": "u.admin", "deactivated": "u.deactivated",
	"user_type": "u.user_type", "avatar_url": "p.avatar_url", "shadow_banned": "u.shadow_banned", "creation_ts": "u.creation_ts",
	"last_seen_ts": "last_seen_ts", "locked": "u.locked",
}

// Users lists local users. total is their number without From and Limit. An unknown order
// is an error.
func (q *Queries) Users(ctx context.Context, list UserList) (users []User, total int64, err error) {
	const operation = "list the users"
	order, ok := userOrders[list.Order]
	if !ok {
		return nil, 0, fmt.Errorf("%s: there is no order %q", operation, list.Order)
	}
	if list.Reverse {
		order += " DESC"
	}
	if !postgres.Storable(list.Name + list.ID) {
		return nil, 0, nil
	}
	// As Synapse does, this compares NULL with a list of types, which leaves out users without a type.
	// Not every statement has the list, but each must have its parameter.
	types := "true"
	switch others := slices.DeleteFunc(slices.Clone(list.NotTypes), func(t string) bool { return t == "" }); {
	case len(list.NotTypes) == 1 && len(others) == 0:
		types = "u.user_type IS NOT NULL"
	case len(others) < len(list.NotTypes):
		types = "NOT u.user_type = ANY ($6)"
	case len(list.NotTypes) > 0:
		types = "(NOT u.user_type = ANY ($6) OR u.user_type IS NULL)"
	}
	from, err := q.userTables(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", operation, err)
	}
	matching := from + `
		WHERE (CASE WHEN $1 <> '' THEN u.name LIKE '@%' || $1 || '%:%' OR lower(p.displayname) LIKE '%' || $1 || '%'
		            ELSE u.name LIKE '%' || $2 || '%' END)
		  AND NOT ($3 AND u.is_guest <> 0) AND NOT ($4 AND u.locked)
		  AND ($5::boolean IS NULL OR (u.deactivated = 1) = $5) AND ` + types + `
		  AND $6::text[] IS NOT NULL AND ($7::boolean IS NULL OR (u.admin = 1) = $7)`
	filter := []any{
		likeLiterally.Replace(strings.ToLower(list.Name)), likeLiterally.Replace(strings.ToLower(list.ID)),
		list.NoGuests, list.NoLocked, list.Deactivated, postgres.OnlyStorable(list.NotTypes), list.Admin,
	}
	err = postgres.RetryRead(ctx, func() error {
		if err := q.db.QueryRow(ctx, `SELECT count(*) `+matching, filter...).Scan(&total); err != nil {
			return err
		}
		rows, err := q.db.Query(ctx, `
			SELECT u.name, u.user_type, u.is_guest <> 0, u.admin <> 0, u.deactivated <> 0, coalesce(u.shadow_banned, false),
			       p.displayname, p.avatar_url, u.creation_ts * 1000, coalesce(u.approved, false), x.user_id IS NOT NULL,
			       coalesce(d.last_seen, i.last_seen) AS last_seen_ts, u.locked `+matching+`
			ORDER BY `+order+`, u.name
			LIMIT $8 OFFSET $9`, append(filter[:len(filter):len(filter)], list.Limit, list.From)...)
		if err != nil {
			return err
		}
		users, err = pgx.CollectRows(rows, pgx.RowToStructByPos[User])
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", operation, err)
	}
	return users, total, nil
}

// userTables joins everything that is known of a user. An embedded database does not have
// all of the tables.
func (q *Queries) userTables(ctx context.Context) (string, error) {
	profiles, err := q.orEmpty(ctx, "profiles", "NULL::text AS full_user_id, NULL::text AS displayname, NULL::text AS avatar_url")
	if err != nil {
		return "", err
	}
	addresses, err := q.orEmpty(ctx, "user_ips", "NULL::text AS user_id, NULL::bigint AS last_seen")
	if err != nil {
		return "", err
	}
	return `
		FROM users u
		LEFT JOIN ` + profiles + ` p ON p.full_user_id = u.name
		LEFT JOIN erased_users x ON x.user_id = u.name
		LEFT JOIN (SELECT user_id, max(last_seen) AS last_seen FROM devices GROUP BY user_id) d ON d.user_id = u.name
		LEFT JOIN (SELECT user_id, max(last_seen) AS last_seen FROM ` + addresses + ` i GROUP BY user_id) i ON i.user_id = u.name`, nil
}

// orEmpty returns the table, or an empty one with the columns if it cannot be read.
func (q *Queries) orEmpty(ctx context.Context, table, columns string) (string, error) {
	readable, err := q.mayRead(ctx, table)
	if err == nil && !readable {
		return "(SELECT " + columns + " WHERE false)", nil
	}
	return table, err
}

// UserDetails is everything that a server admin sees of a local user.
type UserDetails struct {
	User
	Suspended bool

	// AppService is the id of the application service that has created the user.
	AppService *string

	// The user's consent to the server's terms. ConsentTS is in Unix milliseconds.
	ConsentVersion, ConsentNoticeSent *string
	ConsentTS                         *int64

	ThirdPartyIDs []ThirdPartyID
	ExternalIDs   []ExternalID
}

// A ThirdPartyID is an email address or a telephone number. Times are in Unix
// milliseconds.
type ThirdPartyID struct {
	Medium, Address      string
	ValidatedTS, AddedTS int64
}

// An ExternalID is the user's id at a provider of identities.
type ExternalID struct{ Provider, ID string }

// UserDetails reads a local user. An unknown user is [postgres.ErrNotFound].
func (q *Queries) UserDetails(ctx context.Context, user string) (UserDetails, error) {
	details, err := q.userDetails(ctx, user)
	if err != nil {
		return UserDetails{}, fmt.Errorf("read the user: %w", err)
	}
	return details, nil
}

func (q *Queries) userDetails(ctx context.Context, user string) (d UserDetails, err error) {
	if !postgres.Storable(user) {
		return d, postgres.ErrNotFound
	}
	from, err := q.userTables(ctx)
	if err != nil {
		return d, err
	}
	suspended := "u.suspended"
	var old bool // before schema 85
	if err := q.db.ReadRow(ctx, []any{&old}, `
		SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')::oid AND attname = 'suspended' AND NOT attisdropped)`); err != nil {
		return d, err
	}
	if old {
		suspended = "false"
	}
	// Here the time is that of the addresses alone, and that of the creation in seconds.
	err = q.db.ReadRow(ctx, []any{
		&d.ID, &d.Type, &d.Guest, &d.Admin, &d.Deactivated, &d.ShadowBanned, &d.DisplayName, &d.Avatar, &d.CreatedTS,
		&d.Erased, &d.LastSeenTS, &d.Locked, &d.Suspended, &d.AppService, &d.ConsentVersion, &d.ConsentNoticeSent, &d.ConsentTS,
	}, `
		SELECT u.name, u.user_type, u.is_guest <> 0, u.admin <> 0, u.deactivated <> 0, coalesce(u.shadow_banned, false),
		       p.displayname, p.avatar_url, u.creation_ts * 1000, x.user_id IS NOT NULL, i.last_seen, u.locked, `+suspended+`,
		       u.appservice_id, u.consent_version, u.consent_server_notice_sent, u.consent_ts `+from+` WHERE u.name = $1`, user)
	if err != nil {
		return d, err
	}
	threepids, err := q.orEmpty(ctx, "user_threepids",
		"NULL::text AS user_id, NULL::text AS medium, NULL::text AS address, 0::bigint AS validated_at, 0::bigint AS added_at")
	if err != nil {
		return d, err
	}
	if d.ThirdPartyIDs, err = postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[ThirdPartyID], `
		SELECT medium, address, validated_at, added_at FROM `+threepids+` t WHERE user_id = $1 ORDER BY added_at, medium, address`, user); err != nil {
		return d, err
	}
	externals, err := q.orEmpty(ctx, "user_external_ids",
		"NULL::text AS user_id, NULL::text AS auth_provider, NULL::text AS external_id")
	if err != nil {
		return d, err
	}
	d.ExternalIDs, err = postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[ExternalID], `
		SELECT auth_provider, external_id FROM `+externals+` t WHERE user_id = $1 ORDER BY auth_provider, external_id`, user)
	return d, err
}
