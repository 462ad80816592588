package mas

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// A Token is what an access token may do, and for whom.
type Token struct {
	// Username is the part of the user's id before the colon, without the @.
	Username string

	// DeviceID is the token's device, "" if it has none.
	DeviceID string

	// Admin says that the token may use the admin API. It is a right of the token, not
	// of its user.
	Admin bool
}

// The scopes of MSC2967, as they are and as they were before it was accepted, and
// Synapse's own. A scope is the whole text: the star stands for nothing.
const (
	scopeAdmin = "urn:synapse:admin:*"

	scopeAPI       = "urn:matrix:client:api:*"
	scopeAPIBefore = "urn:matrix:org.matrix.msc2967.client:api:*"

	scopeDevice       = "urn:matrix:client:device:"
	scopeDeviceBefore = "urn:matrix:org.matrix.msc2967.client:device:"
)

// maxID bounds the ids of users and devices, in bytes.
const maxID = 255

// An introspection is the service's answer about a token. What is nil was not sent, or
// is null.
type introspection struct {
	Active   *bool   `json:"active"`
	DeviceID *string `json:"device_id"`
	Scope    *string `json:"scope"`
	Username *string `json:"username"`

	// ExpiresIn is the time until the token expires, in seconds. The tokens of a legacy
	// login need not expire.
	ExpiresIn *int64 `json:"expires_in"`
}

// parse reads an answer. Its error says nothing of what was sent.
func parse(body []byte) (said introspection, err error) {
	if json.Unmarshal(body, &said) != nil || said.Active == nil {
		return introspection{}, unusable("it is not what was asked for")
	}
	return said, nil
}

// unusable returns the error of an answer that a Matrix Authentication Service does not
// send.
func unusable(why string) error {
	return fmt.Errorf("%w: its answer cannot be used: %s", ErrUnavailable, why)
}

// lifetime returns how long the token is active after the answer.
func (i introspection) lifetime() time.Duration {
	if i.ExpiresIn == nil || *i.ExpiresIn > int64(math.MaxInt64/time.Second) {
		return math.MaxInt64
	}
	return time.Duration(max(*i.ExpiresIn, 0)) * time.Second
}

// token returns whose the token is, or its refusal.
func (i introspection) token() (Token, error) {
	if !*i.Active || i.lifetime() == 0 {
		return Token{}, ErrInactive
	}
	var token Token
	api := false
	devices := map[string]bool{}
	for scope := range strings.SplitSeq(orEmpty(i.Scope), " ") {
		switch scope {
		case scopeAPI, scopeAPIBefore:
			api = true
		case scopeAdmin:
			token.Admin = true
		}
		for _, prefix := range []string{scopeDevice, scopeDeviceBefore} {
			if device, ok := strings.CutPrefix(scope, prefix); ok {
				devices[device] = true
			}
		}
	}
	if i.DeviceID != nil {
		devices = map[string]bool{*i.DeviceID: true}
	}
	for device := range devices {
		token.DeviceID = device
	}
	token.Username = orEmpty(i.Username)
	switch {
	case !api:
		return Token{}, ErrScope
	case token.Username == "":
		return Token{}, ErrNoUser
	case len(token.Username) > maxID || strings.ContainsAny(token.Username, ":\x00"):
		return Token{}, unusable("it has no valid user name")
	case len(devices) > 1:
		return Token{}, unusable("it has more than one device")
	case len(devices) == 1 && (token.DeviceID == "" || len(token.DeviceID) > maxID || strings.Contains(token.DeviceID, "\x00")):
		return Token{}, unusable("it has no valid device")
	}
	return token, nil
}

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
