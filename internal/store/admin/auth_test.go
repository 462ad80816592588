package admin_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestRequester(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.API)
	ctx, s := l.Ctx, l.Admin
	l.Exec(`
		INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES
			('@admin:x', 1, 0, false, 0),
			('@user:x', 0, 0, false, 0),
			('@guest:x', 0, 1, false, 0),
			('@locked:x', 1, 0, true, 0),
			('@gone:x', 1, 0, false, 1),
			('@old:x', 1, 0, false, 0)`)
	l.Exec(`
		INSERT INTO access_tokens (id, user_id, device_id, puppets_user_id, token, valid_until_ms) VALUES
			(1, '@admin:x', 'PHONE', NULL, 'admin', NULL),
			(2, '@admin:x', NULL, NULL, 'admin, for long', extract(epoch FROM now() + interval '1 hour') * 1000),
			(3, '@admin:x', NULL, NULL, 'admin, no longer', extract(epoch FROM now() - interval '1 second') * 1000),
			(4, '@admin:x', NULL, '@user:x', 'admin as user', NULL),
			(5, '@user:x', NULL, '@admin:x', 'user as admin', NULL),
			(6, '@admin:x', NULL, '@gone:x', 'admin as gone', NULL),
			(7, '@admin:x', NULL, '@nobody:x', 'admin as nobody', NULL),
			(8, '@guest:x', NULL, NULL, 'guest', NULL),
			(9, '@locked:x', NULL, NULL, 'locked', NULL),
			(10, '@gone:x', NULL, NULL, 'gone', NULL),
			(11, '@old:x', NULL, NULL, 'old', NULL)`)
	l.Exec(`
		INSERT INTO account_validity (user_id, expiration_ts_ms, email_sent) VALUES
			('@old:x', extract(epoch FROM now() - interval '1 second') * 1000, false),
			('@admin:x', extract(epoch FROM now() + interval '1 hour') * 1000, false)`)

	for token, want := range map[string]admin.Requester{
		"admin":            {UserID: "@admin:x", DeviceID: "PHONE", TokenID: 1, Admin: true},
		"admin, for long":  {UserID: "@admin:x", TokenID: 2, Admin: true},
		"admin, no longer": {UserID: "@admin:x", TokenID: 3, Admin: true, TokenExpired: true},
		"admin as user":    {UserID: "@user:x", TokenID: 4},
		"user as admin":    {UserID: "@admin:x", TokenID: 5, Admin: true},
		"guest":            {UserID: "@guest:x", TokenID: 8, Guest: true},
		"locked":           {UserID: "@locked:x", TokenID: 9, Admin: true, Locked: true},
		"old":              {UserID: "@old:x", TokenID: 11, Admin: true, AccountExpired: true},
	} {
		got, err := s.Requester(ctx, token, true)
		require.NoError(t, err, token)
		require.Equal(t, want, got, token)

		got, err = s.Requester(ctx, token, false)
		require.NoError(t, err, token)
		want.AccountExpired = false
		require.Equal(t, want, got, token)
	}
	for _, token := range []string{
		"", "nobody's", "gone", "admin as gone", "admin as nobody", "admi_", "ADMIN", "admin\x00", "\xff", "' OR true --",
	} {
		_, err := s.Requester(ctx, token, true)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", token)
	}

	// Without account validity its table is not asked.
	l.Exec(`DROP TABLE account_validity`)
	_, err := s.Requester(ctx, "admin", false)
	require.NoError(t, err)
	_, err = s.Requester(ctx, "a secret", true)
	require.Error(t, err)
	require.NotErrorIs(t, err, postgres.ErrNotFound)
	require.NotContains(t, err.Error(), "a secret")
}

func TestDelegated(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	ctx, s := l.Ctx, l.Admin
	l.Exec(`
		INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES
			('@user:x', 0, 0, false, 0),
			('@admin:x', 1, 0, true, 0),
			('@guest:x', 0, 1, false, 0),
			('@gone:x', 1, 0, false, 1),
			('@old:x', 0, 0, false, 0)`)
	l.Exec(`
		INSERT INTO devices (user_id, device_id, hidden) VALUES
			('@user:x', 'PHONE', false), ('@user:x', 'OLD', NULL), ('@user:x', 'key', true),
			('@admin:x', 'DESK', false), ('@gone:x', 'GONE', false)`)
	l.Exec(`
		INSERT INTO account_validity (user_id, expiration_ts_ms, email_sent) VALUES
			('@old:x', extract(epoch FROM now() - interval '1 second') * 1000, false),
			('@user:x', extract(epoch FROM now() + interval '1 hour') * 1000, false)`)
	type account struct{ user, device string }
	for of, want := range map[account]admin.Requester{
		{"@user:x", ""}:      {UserID: "@user:x"},
		{"@user:x", "PHONE"}: {UserID: "@user:x", DeviceID: "PHONE"},
		{"@user:x", "OLD"}:   {UserID: "@user:x", DeviceID: "OLD"},
		{"@admin:x", "DESK"}: {UserID: "@admin:x", DeviceID: "DESK"}, // the service has both flags
		{"@guest:x", ""}:     {UserID: "@guest:x", Guest: true},
		{"@old:x", ""}:       {UserID: "@old:x", AccountExpired: true},
	} {
		got, err := s.Delegated(ctx, of.user, of.device, true)
		require.NoError(t, err, of)
		require.Equal(t, want, got, of)

		got, err = s.Delegated(ctx, of.user, of.device, false)
		require.NoError(t, err, of)
		want.AccountExpired = false
		require.Equal(t, want, got, of)
	}
	for _, of := range []account{
		{"", ""},
		{"@unknown:x", ""},
		{"@USER:x", ""},
		{"@user", ""},
		{"@gone:x", ""},
		{"@gone:x", "GONE"},
		{"@user:x", "DESK"},
		{"@user:x", "phone"},
		{"@user:x", "key"},
		{"@user:x\x00", ""},
		{"@user:x", "\xff"},
		{"' OR true --", "' OR true --"},
	} {
		_, err := s.Delegated(ctx, of.user, of.device, true)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", of)
	}
	// Without account validity its table is not asked.
	l.Exec(`DROP TABLE account_validity`)
	_, err := s.Delegated(ctx, "@user:x", "PHONE", false)
	require.NoError(t, err)
}

func TestRequesterOnCorpus(t *testing.T) {
	t.Parallel()
	l := storetest.On(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	ctx, s := l.Ctx, l.Admin
	file, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "corpus.json"))
	require.NoError(t, err)
	var corpus struct {
		Admin string
		Users map[string]string
	}
	require.NoError(t, json.Unmarshal(file, &corpus))
	got, err := s.Requester(ctx, corpus.Admin, true)
	require.NoError(t, err)
	devices, tokens := map[string]bool{}, map[int64]bool{}
	// known holds that the access token has an id, and a device, of its own.
	known := func(want, got admin.Requester) {
		devices[got.DeviceID], tokens[got.TokenID] = true, true
		want.DeviceID, want.TokenID = got.DeviceID, got.TokenID
		require.Equal(t, want, got)
	}
	known(admin.Requester{UserID: "@admin:lab.test", Admin: true}, got)
	for user, token := range corpus.Users {
		got, err := s.Requester(ctx, token, true)
		require.NoError(t, err)
		known(admin.Requester{UserID: user}, got)
	}
	require.Len(t, devices, 1+len(corpus.Users))
	require.Len(t, tokens, 1+len(corpus.Users))
	require.NotContains(t, devices, "")
}
