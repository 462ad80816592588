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

// An Account is whom an access token speaks for.
type Account struct {
	UserID string

	// DeviceID is the device that the access token belongs to, "" if it has none.
	DeviceID string

	// AppService says that the token is an application service's that speaks for
	// a user. One that speaks for its own looks like a user without a device.
	AppService bool

	// Admin says that the homeserver lets the user use its admin API.
	Admin bool

	// Guest says that the user is a guest.
	Guest bool

	// Locked says that an admin has locked the account.
	Locked bool

	// Deactivated says that the account is no more. An application service can
	// still speak for it.
	Deactivated bool
}

// AccountsOptions are what [NewAccounts] can be told.
type AccountsOptions struct {
	// Keep is for how long an account is believed, so for how long one that was
	// demoted or logged out may go on, and one that was promoted has to wait.
	// Defaults to 10 s.
	Keep time.Duration

	// KeepOthers is for how long a refusal is believed. Defaults to 2 s.
	KeepOthers time.Duration

	// MaxAnswers is how many answers are kept. Defaults to 10,000.
	MaxAnswers int
}

// Accounts asks a homeserver about access tokens, and remembers its answers for
// some seconds. Of a token it keeps only a hash. It is safe for concurrent use.
type Accounts struct {
	client  *Client
	options AccountsOptions
	answers *expiring.Map[answerKey, accountAnswer]
}

// answerKey is the hash of an access token and of the user it is to speak for.
type answerKey [sha256.Size]byte

type accountAnswer struct {
	account Account
	refusal *Error
}

const (
	// askAttempts and askTime bound the asking about a token: a caller waits.
	askAttempts = 2
	askTime     = 10 * time.Second
)

// NewAccounts returns Accounts that have asked nothing yet. Their requests are
// bounded more tightly than the Client's, since a caller waits.
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
	errOtherUser = &Error{
		Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: "Application service cannot speak for this user",
	}
)

// Account returns whom the access token speaks for. An application service's
// speaks for user, or for its own if that is ""; other tokens take no notice of
// it. A token that the homeserver refuses is an [Error]; a homeserver that
// cannot be asked is [ErrUnavailable], and asked again the next time.
func (a *Accounts) Account(ctx context.Context, token, user string) (Account, error) {
	switch {
	case !ValidToken(token):
		return Account{}, errUnknownToken
	case len(user) > maxUserID:
		return Account{}, errOtherUser
	}
	key := answerKey(sha256.Sum256([]byte(token + " " + user))) // no token holds a space
	if known, ok := a.answers.Get(key); ok {
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
	a.answers.Put(key, answer, ttl)
	return answer.account, answer.err()
}

// err is a nil error, unlike a nil *Error in one, where nothing was refused.
func (a accountAnswer) err() error {
	if a.refusal == nil {
		return nil
	}
	return a.refusal
}

// account asks whose the access token is, and if the user is not a guest, whether
// the homeserver takes the user for a server admin: only an admin is shown an
// account by the admin API.
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
		// Other tokens take no notice of the user, and have a device.
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
