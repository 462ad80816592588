package session

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

// ErrNone is returned for a secret that has no session: it is unknown, or its session has
// ended.
var ErrNone = errors.New("there is no such session")

// A Session is a user who has signed in.
type Session struct {
	// User is the user's id, and Token the access token with which the session began.
	User  string `json:"user"`
	Token string `json:"token"`

	// Ends is when the session ends.
	Ends time.Time `json:"ends"`

	// secret is what the browser sends.
	secret secret
}

// A Store has the sessions of one deployment. It is safe for concurrent use.
type Store struct {
	client redis.UniversalClient
	names  *redisdb.Names
	lasts  time.Duration
}

// New returns a Store of sessions that last for that long.
func New(client redis.UniversalClient, names *redisdb.Names, lasts time.Duration) *Store {
	return &Store{client: client, names: names, lasts: lasts}
}

// secretBytes is the length of a secret.
const secretBytes = 32

// A secret is what the browser sends. It is the source of all that a session is known by,
// so that the server need not have it.
type secret [secretBytes]byte

// derive returns 32 bytes that depend on the secret and the purpose.
func (s secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s[:], nil, "lethe console "+purpose, sha256.Size)
	if err != nil {
		panic("session: " + err.Error()) // the length of the key is one that HKDF has
	}
	return key
}

// id is the name of the session in Redis.
func (s secret) id() string { return hex.EncodeToString(s.derive("id")) }

// seal returns the cipher of the session's contents.
func (s secret) seal() cipher.AEAD {
	block, err := aes.NewCipher(s.derive("seal"))
	if err != nil {
		panic("session: " + err.Error()) // the length of the key is one that AES has
	}
	sealed, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("session: " + err.Error())
	}
	return sealed
}

// Begin begins a session, with a new secret. It returns what the browser has to send.
func (s *Store) Begin(ctx context.Context, user, token string) (sent string, begun Session, err error) {
	begun = Session{User: user, Token: token, Ends: time.Now().Add(s.lasts)}
	_, _ = rand.Read(begun.secret[:]) // it never fails
	text, err := json.Marshal(begun)
	if err != nil {
		return "", Session{}, fmt.Errorf("begin a session: %w", err)
	}
	key := s.names.ConsoleSession(begun.secret.id())
	sealed := begun.secret.seal().Seal(nil, nil, text, []byte(key))
	if err := s.client.Set(ctx, key, sealed, s.lasts).Err(); err != nil {
		return "", Session{}, fmt.Errorf("begin a session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(begun.secret[:]), begun, nil
}

// Find returns the session of a browser that sends this. It fails with [ErrNone] if there is
// none.
func (s *Store) Find(ctx context.Context, sent string) (found Session, err error) {
	secret, err := read(sent)
	if err != nil {
		return Session{}, err
	}
	key := s.names.ConsoleSession(secret.id())
	sealed, err := s.client.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return Session{}, ErrNone
	}
	if err != nil {
		return Session{}, fmt.Errorf("find a session: %w", err)
	}
	// What cannot be opened was not written by a process of this deployment.
	text, err := secret.seal().Open(nil, nil, sealed, []byte(key))
	if err != nil || json.Unmarshal(text, &found) != nil || !time.Now().Before(found.Ends) {
		return Session{}, ErrNone
	}
	found.secret = secret
	return found, nil
}

// End ends the session of a browser that sends this. A second call does nothing.
func (s *Store) End(ctx context.Context, sent string) error {
	secret, err := read(sent)
	if err != nil {
		return nil // there is nothing to end
	}
	if err := s.client.Del(ctx, s.names.ConsoleSession(secret.id())).Err(); err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	return nil
}

func read(sent string) (read secret, err error) {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(sent)
	if err != nil || len(decoded) != secretBytes {
		return read, ErrNone
	}
	return secret(decoded), nil
}

// Proof returns what the session's own forms send along. A page of another site does not
// know it.
func (s *Session) Proof() string {
	return base64.RawURLEncoding.EncodeToString(s.secret.derive("form"))
}

// Proves reports whether a form sends what the session's own forms do.
func (s *Session) Proves(sent string) bool {
	return subtle.ConstantTimeCompare([]byte(sent), []byte(s.Proof())) == 1
}
