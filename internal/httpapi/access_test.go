package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"lethe/internal/httpapi"
)

func TestAccess(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{AccountValidity: true})
	const (
		mixed     = `{"errcode":"M_MISSING_TOKEN","error":"Mixing Authorization headers and access_token query parameters."}`
		tooMany   = `{"errcode":"M_MISSING_TOKEN","error":"Too many Authorization headers."}`
		badHeader = `{"errcode":"M_MISSING_TOKEN","error":"Invalid Authorization header."}`
		missing   = `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`
		unknown   = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
		expired   = `{"errcode":"M_UNKNOWN_TOKEN","error":"Access token has expired","soft_logout":true}`
		locked    = `{"errcode":"M_USER_LOCKED","error":"User account has been locked","soft_logout":true}`
		over      = `{"errcode":"ORG_MATRIX_EXPIRED_ACCOUNT","error":"User account has expired"}`
		guest     = `{"errcode":"M_GUEST_ACCESS_FORBIDDEN","error":"Guest access not allowed"}`
		notAdmin  = `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`
		welcome   = `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`
	)
	for name, test := range map[string]struct {
		query   string
		headers []string
		status  int
		body    string
	}{
		"no token":              {"", nil, 401, missing},
		"other query":           {"?token=admin", nil, 401, missing},
		"key without value":     {"?access_token", nil, 401, missing},
		"header":                {"", []string{"Bearer admin"}, 400, welcome},
		"query":                 {"?access_token=admin", nil, 400, welcome},
		"query, not alone":      {"?a=b;c&access_token&%zz=1&access_token=admin&x", nil, 400, welcome},
		"query, first wins":     {"?access_token=admin&access_token=user", nil, 400, welcome},
		"query, escaped":        {"?access%5Ftoken=a%2Bb+c/d%2541", nil, 400, welcome},
		"query, bad escape":     {"?access_token=admin%", nil, 401, unknown},
		"query, empty":          {"?access_token=", nil, 401, unknown},
		"both":                  {"?access_token=admin", []string{"Bearer admin"}, 401, mixed},
		"both, one empty":       {"?access_token=", []string{"Bearer admin"}, 401, mixed},
		"both, key alone":       {"?access_token", []string{"Bearer admin"}, 400, welcome},
		"both and bad header":   {"?access_token=admin", []string{"Basic admin"}, 401, mixed},
		"both, two headers":     {"?access_token=admin", []string{"Bearer admin", "Bearer admin"}, 401, mixed},
		"two headers":           {"", []string{"Bearer admin", "Bearer admin"}, 401, tooMany},
		"two bad headers":       {"", []string{"", "x"}, 401, tooMany},
		"empty header":          {"", []string{""}, 401, badHeader},
		"word alone":            {"", []string{"Bearer"}, 401, badHeader},
		"word and space":        {"", []string{"Bearer "}, 401, badHeader},
		"two spaces":            {"", []string{"Bearer  admin"}, 401, badHeader},
		"tab":                   {"", []string{"Bearer\tadmin"}, 401, badHeader},
		"lower case":            {"", []string{"bearer admin"}, 401, badHeader},
		"basic":                 {"", []string{"Basic admin"}, 401, badHeader},
		"three words":           {"", []string{"Bearer admin x"}, 401, badHeader},
		"comma":                 {"", []string{"Bearer admin,Bearer admin"}, 401, badHeader},
		"unknown":               {"", []string{"Bearer nobody"}, 401, unknown},
		"not UTF-8":             {"", []string{"Bearer \xff\xfe"}, 401, unknown},
		"NUL":                   {"?access_token=admin%00", nil, 401, unknown},
		"long":                  {"", []string{"Bearer " + strings.Repeat("a", 50_000)}, 401, unknown},
		"deactivated":           {"", []string{"Bearer gone"}, 401, unknown},
		"expired, locked user":  {"", []string{"Bearer expired"}, 401, expired},
		"locked, account over":  {"", []string{"Bearer locked"}, 401, locked},
		"account over, a guest": {"", []string{"Bearer old"}, 403, over},
		"guest":                 {"", []string{"Bearer guest"}, 403, guest},
		"no admin":              {"", []string{"Bearer user"}, 403, notAdmin},
		"admin as user":         {"", []string{"Bearer puppeteer"}, 403, notAdmin},
		"user as admin":         {"", []string{"Bearer puppet"}, 400, welcome},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := fmt.Sprintf("POST /_synapse/admin/v1/purge_history/!room:x%s HTTP/1.1\nHost: x\n", test.query)
			for _, header := range test.headers {
				request += "Authorization: " + header + "\n"
			}
			// The body is unfit, which only an admin gets to hear.
			requireJSON(t, b.raw(t, request+"Content-Length: 1\n\n{"), test.status, test.body)
		})
	}
}

func TestAccountValidityIsNotAskedUnlessWanted(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	r := b.raw(t, "GET /_synapse/admin/v1/purge_history_status/x?access_token=old HTTP/1.1\nHost: x\n\n")
	requireJSON(t, r, 403, refusal("M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed"))
}
