package homeserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"lethe/internal/expiring"
)

// An Account is the user of an access token.
type Account struct {
	UserID string

	// DeviceID is the device that the access token belongs to, "" if it has none.
	DeviceID string

	// AppService says that the token belongs to an application service that acts as the
	// given user. An application service that acts as its own user looks like a user
	// without a device.
	AppService bool

	// Admin says that the homeserver lets the user use its admin API.
	Admin bool

	// Guest says that the user is a guest.
	Guest bool

	// Locked says that an admin has locked the account.
	Locked bool

	// Deactivated says that the account is deactivated. An application service can
	// still act as its user.
	Deactivated bool
}

// AccountsOptions are the options of [Accounts].
type AccountsOptions struct {
	// Keep is how long an account is cached. A user who was demoted or logged out keeps
	// access for that long, and a promoted user has to wait. Defaults to 10 s.
	Keep time.Duration

	// KeepOthers is how long a refusal is cached. Defaults to 2 s.
	KeepOthers time.Duration

	// MaxAnswers is the maximum number of cached answers. Defaults to 10,000.
	MaxAnswers int
}

// Accounts asks a homeserver about access tokens, and caches its answers for some
// seconds. It stores only a hash of each token. It is safe for concurrent use.
type Accounts struct {
	client  *Client
	options AccountsOptions
	answers *expiring.Map[answerKey, accountAnswer]
}

// answerKey is the hash of an access token and of the user that it acts as.
type answerKey [sha256.Size]byte

type accountAnswer struct {
	account Account
	refusal *Error

	// ofToken says that the answer does not depend on the user that the caller names.
	ofToken bool
}

func keyOf(token, user string) answerKey {
	return sha256.Sum256([]byte(token + " " + user)) // no token holds a space
}

const (
	// askAttempts and askTime bound the requests about one token, because a caller
	// waits.
	askAttempts = 2
	askTime     = 10 * time.Second
)

// NewAccounts returns Accounts. It sends no request. Its requests have tighter
// bounds than the Client's, because a caller waits.
func NewAccounts(client *Client, options AccountsOptions) *Accounts {
	options.Keep = cmp.Or(options.Keep, 10*time.Second)
	options.KeepOthers = cmp.Or(options.KeepOthers, 2*time.Second)
	options.MaxAnswers = cmp.Or(options.MaxAnswers, 10_000)
	asking := *client
	asking.options.Attempts = min(askAttempts, client.options.Attempts)
	asking.options.Timeout = min(askTime, client.options.Timeout)
	return &Accounts{
		client: &asking, options: options, answers: expiring.New[answerKey, accountAnswer](options.MaxAnswers),
	}
}

// maxUserID bounds a user id, in bytes, as Matrix does.
const maxUserID = 255

var (
	errUnknownToken = &Error{
		Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN", Text: "Invalid access token passed.", SoftLogout: new(false),
	}
	errWrongUser = &Error{
		Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: "Application service cannot speak for this user",
	}
)

// Account returns the user of the access token. An application service's token acts
// as user, or as its own user if that is ""; other tokens ignore it. A token that
// the homeserver refuses is an [Error]. If the homeserver cannot be asked, that is
// [ErrUnavailable], and the next call asks again.
func (a *Accounts) Account(ctx context.Context, token, user string) (Account, error) {
	switch {
	case !ValidToken(token):
		return Account{}, errUnknownToken
	case len(user) > maxUserID:
		return Account{}, errWrongUser
	}
	if known, ok := a.answers.Get(keyOf(token, "")); ok && (user == "" || known.ofToken) {
		return known.account, known.err()
	}
	if known, ok := a.answers.Get(keyOf(token, user)); ok {
		return known.account, known.err()
	}
	account, err := a.client.account(ctx, token, user)
	answer := accountAnswer{account: account}
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable), !errors.As(err, &answer.refusal):
		return Account{}, err
	case answer.refusal.Status >= 500:
		return Account{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	ttl := a.options.Keep
	if answer.refusal != nil {
		ttl = a.options.KeepOthers
	}
	// Otherwise the caller could name one user after the other, and the homeserver would be
	// asked each time.
	answer.ofToken = answer.ignores(user)
	if user != "" && answer.isUnknown() {
		// It may be the user that is unknown: this finds out, and is remembered.
		_, _ = a.Account(ctx, token, "")
	}
	if answer.ofToken {
		user = ""
	}
	a.answers.Put(keyOf(token, user), answer, ttl)
	return answer.account, answer.err()
}

// isUnknown reports whether the answer is that the token is unknown.
func (a accountAnswer) isUnknown() bool {
	return a.refusal != nil && a.refusal.Status == http.StatusUnauthorized && a.refusal.Code == errUnknownToken.Code
}

// ignores reports whether the answer shows that the token acts as no other user: it is not
// an application service's, or it is unknown without a user, too.
func (a accountAnswer) ignores(user string) bool {
	if a.refusal != nil {
		return user == "" && a.isUnknown()
	}
	return a.account.DeviceID != "" || a.account.Guest || user != "" && a.account.UserID != user
}

// err returns the refusal, or a nil error. It does not return a nil *Error as an
// error.
func (a accountAnswer) err() error {
	if a.refusal == nil {
		return nil
	}
	return a.refusal
}

// account asks for the user of the access token, and unless that is a guest, whether
// the user is a server admin: the admin API shows accounts only to admins.
func (c *Client) account(ctx context.Context, token, user string) (Account, error) {
	var who struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id"`
		Guest    bool   `json:"is_guest"`
	}
	get := func(operation string, into any, path ...string) error {
		return c.do(ctx, operation, call{method: http.MethodGet, path: path, token: token, user: user}, into)
	}
	const operation = "ask whose the access token is"
	if err := get(operation, &who, clientAPI("account", "whoami")...); err != nil {
		return Account{}, err
	}
	account := Account{
		UserID: who.UserID, DeviceID: who.DeviceID, Guest: who.Guest,
		// Other tokens ignore the user, and have a device.
		AppService: user != "" && who.UserID == user && who.DeviceID == "" && !who.Guest,
	}
	switch {
	case who.UserID == "" || len(who.UserID) > maxUserID:
		return Account{}, fmt.Errorf("%s: %w: its answer has no user id", operation, ErrUnavailable)
	case who.Guest:
		return account, nil
	}

	var details struct {
		Deactivated bool `json:"deactivated"`
		Locked      bool `json:"locked"`
	}
	const question = "ask whether the user is a server admin"
	err := get(question, &details, "_synapse", "admin", "v2", "users", who.UserID)
	var refusal *Error
	switch {
	case err == nil:
		account.Admin, account.Locked, account.Deactivated = true, details.Locked, details.Deactivated
		return account, nil
	case !errors.As(err, &refusal):
		return Account{}, err
	case refusal.Status == http.StatusForbidden:
		return account, nil
	case refusal.Status == http.StatusNotFound && refusal.Code == "M_UNRECOGNIZED":
	default:
		return Account{}, err
	}

	// A homeserver that does not know that request may know an older one.
	var admin struct {
		Admin bool `json:"admin"`
	}
	err = get(question, &admin, "_synapse", "admin", "v1", "users", who.UserID, "admin")
	if err != nil && (!errors.As(err, &refusal) || refusal.Status != http.StatusForbidden) {
		return Account{}, err
	}
	account.Admin = admin.Admin
	return account, nil
}
