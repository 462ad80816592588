package access

import (
	"net/http"
	"strings"

	"lethe/internal/wire"
)

// tokenOf returns the access token of a request, from its only Authorization header
// or from its query.
func tokenOf(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	inQuery, hasQuery := wire.NewQuery(r.URL.RawQuery).Value("access_token")
	switch {
	case len(headers) == 0 && !hasQuery:
		return "", errNoToken
	case len(headers) == 0:
		return inQuery, nil
	case hasQuery:
		return "", errMixedTokens
	case len(headers) > 1:
		return "", errManyTokens
	}
	token, ok := strings.CutPrefix(headers[0], "Bearer ")
	if !ok || strings.Contains(token, " ") {
		return "", errBadHeader
	}
	return token, nil
}

// browserTokenOf returns the access token of a request of a browser, which may send
// it as the password of basic authentication. It does not read the query: browsers
// keep that in their history, and proxies log it.
func browserTokenOf(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	switch len(headers) {
	case 0:
		return "", errNoToken
	case 1:
	default:
		return "", errManyTokens
	}
	token, ok := strings.CutPrefix(headers[0], "Bearer ")
	if !ok {
		// A user id has a colon, at which BasicAuth ends the user.
		var user, password string
		user, password, ok = r.BasicAuth()
		both := user + ":" + password
		token = both[strings.LastIndexByte(both, ':')+1:]
	}
	switch {
	case !ok:
		return "", errBadHeader
	case token == "":
		return "", errNoToken
	}
	return token, nil
}
