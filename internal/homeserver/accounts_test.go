package homeserver

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A census is a homeserver that knows accounts, and counts what it is asked.
type census struct {
	asked []string

	// whoami answers by "token user", admin by path; "" is 404 M_UNRECOGNIZED, and
	// a number at the beginning is the status.
	whoami, admin map[string]string
}

func (c *census) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.asked = append(c.asked, r.URL.RequestURI())
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	answer, ok := c.admin[r.URL.EscapedPath()]
	if r.URL.Path == "/_matrix/client/v3/account/whoami" {
		answer, ok = c.whoami[strings.TrimSpace(token+" "+r.URL.Query().Get("user_id"))]
	}
	if !ok {
		answer = `404{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`
	}
	status := 200
	if !strings.HasPrefix(answer, "{") {
		_, _ = fmt.Sscan(answer[:3], &status)
		answer = answer[3:]
	}
	w.WriteHeader(status)
	_, _ = fmt.Fprint(w, answer)
}

const (
	v2       = "/_synapse/admin/v2/users/"
	v1       = "/_synapse/admin/v1/users/"
	noAdmin  = `403{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`
	unknown  = `401{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
	starting = `503{"errcode":"M_UNKNOWN","error":"starting"}`
)

func TestAccount(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		token, user string
		whoami      string
		admin       map[string]string
		want        Account
		refusal     int  // the status of an Error
		unavailable bool // or ErrUnavailable
	}{
		"admin":         {whoami: `{"user_id":"@a:x","is_guest":false}`, admin: map[string]string{v2 + "@a:x": `{"admin":true}`}, want: Account{UserID: "@a:x", Admin: true}},
		"odd id":        {whoami: `{"user_id":"@a/b:x"}`, admin: map[string]string{v2 + "@a%2Fb:x": `{}`}, want: Account{UserID: "@a/b:x", Admin: true}},
		"device":        {whoami: `{"user_id":"@a:x","device_id":"D"}`, admin: map[string]string{v2 + "@a:x": noAdmin}, want: Account{UserID: "@a:x", DeviceID: "D"}},
		"own user":      {user: "@a:x", whoami: `{"user_id":"@a:x","device_id":"D"}`, admin: map[string]string{v2 + "@a:x": noAdmin}, want: Account{UserID: "@a:x", DeviceID: "D"}},
		"other user":    {user: "@b:x", whoami: `{"user_id":"@a:x","device_id":"D"}`, admin: map[string]string{v2 + "@a:x": noAdmin}, want: Account{UserID: "@a:x", DeviceID: "D"}},
		"locked":        {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": `{"locked":true}`}, want: Account{UserID: "@a:x", Admin: true, Locked: true}},
		"deactivated":   {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": `{"deactivated":true}`}, want: Account{UserID: "@a:x", Admin: true, Deactivated: true}},
		"user":          {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": noAdmin}, want: Account{UserID: "@a:x"}},
		"guest":         {whoami: `{"user_id":"@a:x","is_guest":true}`, want: Account{UserID: "@a:x", Guest: true}},
		"older admin":   {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v1 + "@a:x/admin": `{"admin":true}`}, want: Account{UserID: "@a:x", Admin: true}},
		"older user":    {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v1 + "@a:x/admin": noAdmin}, want: Account{UserID: "@a:x"}},
		"older no":      {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v1 + "@a:x/admin": `{"admin":false}`}, want: Account{UserID: "@a:x"}},
		"service":       {user: "@b:x", whoami: `{"user_id":"@b:x"}`, admin: map[string]string{v2 + "@b:x": `{}`}, want: Account{UserID: "@b:x", Admin: true, AppService: true}},
		"unknown":       {whoami: unknown, refusal: 401},
		"no such user":  {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": `404{"errcode":"M_NOT_FOUND"}`}, refusal: 404},
		"neither":       {whoami: `{"user_id":"@a:x"}`, refusal: 404},
		"bad token":     {token: "a b", refusal: 401},
		"long user":     {user: strings.Repeat("a", 256), refusal: 403},
		"no user":       {whoami: `{}`, unavailable: true},
		"long user id":  {whoami: `{"user_id":"` + strings.Repeat("a", 256) + `"}`, unavailable: true},
		"number":        {whoami: `{"user_id":1}`, unavailable: true},
		"no JSON":       {whoami: `200<html>`, unavailable: true},
		"starting":      {whoami: starting, unavailable: true},
		"then starting": {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": starting}, unavailable: true},
		"then no JSON":  {whoami: `{"user_id":"@a:x"}`, admin: map[string]string{v2 + "@a:x": `200`}, unavailable: true},
		"limited":       {whoami: `429{"errcode":"M_LIMIT_EXCEEDED"}`, unavailable: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				token := test.token
				if token == "" {
					token = "token"
				}
				homeserver := &census{whoami: map[string]string{strings.TrimSpace(token + " " + test.user): test.whoami}, admin: test.admin}
				accounts := NewAccounts(clientOf(t, Options{}, homeserver.ServeHTTP), AccountsOptions{})
				got, err := accounts.Account(t.Context(), token, test.user)
				require.Equal(t, test.want, got)
				var refusal *Error
				switch {
				case test.unavailable:
					require.ErrorIs(t, err, ErrUnavailable)
					// It is not believed for long.
					before := len(homeserver.asked)
					_, err = accounts.Account(t.Context(), token, test.user)
					require.ErrorIs(t, err, ErrUnavailable)
					require.Greater(t, len(homeserver.asked), before)
				case test.refusal != 0:
					require.ErrorAs(t, err, &refusal)
					require.NotErrorIs(t, err, ErrUnavailable)
					require.Equal(t, test.refusal, refusal.Status)
				default:
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestAnswersAreBelievedForSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		homeserver := &census{
			whoami: map[string]string{
				"admin": `{"user_id":"@a:x"}`, "admin @b:x": `{"user_id":"@b:x"}`, "user": `{"user_id":"@u:x"}`, "nobody": unknown,
			},
			admin: map[string]string{v2 + "@a:x": `{}`, v2 + "@b:x": `{}`, v2 + "@u:x": noAdmin},
		}
		accounts := NewAccounts(clientOf(t, Options{}, homeserver.ServeHTTP), AccountsOptions{})
		asks := func(token, user string, want int) {
			t.Helper()
			before := len(homeserver.asked)
			account, err := accounts.Account(t.Context(), token, user)
			require.Equal(t, token == "nobody", err != nil)
			require.Equal(t, token == "admin", account.Admin)
			require.Equal(t, want, len(homeserver.asked)-before)
		}
		asks("admin", "", 2)
		asks("user", "", 2)
		asks("nobody", "", 1)
		asks("admin", "@b:x", 2) // another user of an application service is another key
		time.Sleep(2*time.Second - 1)
		for range 2 {
			asks("admin", "", 0)
			asks("user", "", 0)
			asks("nobody", "", 0)
		}
		time.Sleep(time.Nanosecond)
		asks("nobody", "", 1)
		time.Sleep(8*time.Second - 1)
		asks("admin", "", 0)
		asks("admin", "@b:x", 0)
		asks("user", "", 0)
		time.Sleep(time.Nanosecond)
		asks("admin", "", 2)
		asks("user", "", 2)
		require.NotContains(t, fmt.Sprintf("%+v", accounts.answers), "admin")
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		homeserver := &census{whoami: map[string]string{"admin": `{"user_id":"@a:x"}`}, admin: map[string]string{v2 + "@a:x": `{}`}}
		accounts := NewAccounts(clientOf(t, Options{}, homeserver.ServeHTTP), AccountsOptions{MaxAnswers: 5})
		ask := func(token string) { _, _ = accounts.Account(t.Context(), token, "") }
		ask("admin")
		for i := range 4 {
			ask(fmt.Sprint(i))
		}
		time.Sleep(3 * time.Second)
		// Those that are over make room first.
		ask("new")
		before := len(homeserver.asked)
		ask("admin")
		require.Len(t, homeserver.asked, before)
		for i := range 100 {
			ask(fmt.Sprint(i))
		}
		// No more than five are kept: "admin" and the last four.
		before = len(homeserver.asked)
		ask("95")
		require.Len(t, homeserver.asked, before+1)
		ask("99")
		require.Len(t, homeserver.asked, before+1)
	})
}

// TestNamedUsersAreNotAskedForOneByOne: who names one user after the other, with a token
// that acts as no other user or that is unknown, makes the homeserver work once.
func TestNamedUsersAreNotAskedForOneByOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		whoami  string
		refused bool
		asked   int
	}{
		"device":    {`{"user_id":"@u:x","device_id":"D"}`, false, 2},
		"no device": {`{"user_id":"@u:x"}`, false, 2},
		"guest":     {`{"user_id":"@u:x","is_guest":true}`, false, 1},
		"unknown":   {unknown, true, 2},
	} {
		whoami := map[string]string{"token": c.whoami}
		for i := range 20 {
			whoami[fmt.Sprintf("token @%d:x", i)] = c.whoami
		}
		homeserver := &census{whoami: whoami, admin: map[string]string{v2 + "@u:x": noAdmin}}
		accounts := NewAccounts(clientOf(t, Options{}, homeserver.ServeHTTP), AccountsOptions{})
		for i := range 20 {
			account, err := accounts.Account(t.Context(), "token", fmt.Sprintf("@%d:x", i))
			require.Equal(t, c.refused, err != nil, name)
			require.False(t, account.AppService, name)
			if !c.refused {
				require.Equal(t, "@u:x", account.UserID, name)
			}
		}
		require.Len(t, homeserver.asked, c.asked, name)
		_, _ = accounts.Account(t.Context(), "token", "")
		require.Len(t, homeserver.asked, c.asked, name)
	}

	// An application service's token acts as each of its users.
	homeserver := &census{
		whoami: map[string]string{"as": `{"user_id":"@s:x"}`, "as @a:x": `{"user_id":"@a:x"}`, "as @b:x": `{"user_id":"@b:x"}`, "as @no:x": unknown},
		admin:  map[string]string{v2 + "@s:x": noAdmin, v2 + "@a:x": noAdmin, v2 + "@b:x": noAdmin},
	}
	accounts := NewAccounts(clientOf(t, Options{}, homeserver.ServeHTTP), AccountsOptions{})
	for _, user := range []string{"", "@a:x", "@b:x", "@a:x", ""} {
		account, err := accounts.Account(t.Context(), "as", user)
		require.NoError(t, err)
		require.Equal(t, cmp.Or(user, "@s:x"), account.UserID)
		require.Equal(t, user != "", account.AppService)
	}
	require.Len(t, homeserver.asked, 6)
	_, err := accounts.Account(t.Context(), "as", "@no:x")
	require.Error(t, err)
	_, err = accounts.Account(t.Context(), "as", "@b:x")
	require.NoError(t, err, "only that user is unknown")
	require.Len(t, homeserver.asked, 7)
}
