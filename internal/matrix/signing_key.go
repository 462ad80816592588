package matrix

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

// keyVersion matches the version in a key's id, which distinguishes a server's keys.
var keyVersion = regexp.MustCompile(`^[A-Za-z0-9_]{1,100}$`)

// A SigningKey is the key with which a homeserver signs its users' events.
// [ParseSigningKey] returns one; the zero value cannot sign. Printing, logging or
// encoding it shows only its id.
type SigningKey struct {
	id     string
	public ed25519.PublicKey

	// sign contains the secret. It is a function, because functions are never printed
	// or encoded.
	sign func(message []byte) []byte
}

// ParseSigningKey parses the text of a homeserver's key file. A line has the
// algorithm, the key's version and its seed in base64, as in "ed25519 a_XLZw …". The
// first line that is neither blank nor a comment with # is the key. Later lines are
// ignored. Errors do not contain the text.
func ParseSigningKey(text string) (*SigningKey, error) {
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := parseKeyLine(line)
		if err != nil {
			return nil, fmt.Errorf("signing key, line %d: %w", number+1, err)
		}
		return key, nil
	}
	return nil, errors.New("signing key: the text has no key")
}

func parseKeyLine(line string) (*SigningKey, error) {
	words := strings.Fields(line)
	if len(words) != 3 {
		return nil, errors.New("need three words: algorithm, version, seed")
	}
	if words[0] != "ed25519" {
		return nil, errors.New("the algorithm is not ed25519")
	}
	if !keyVersion.MatchString(words[1]) {
		return nil, errors.New("the version has characters other than letters, digits and _")
	}
	seed, err := decodeBase64(words[2])
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the seed is not %d bytes in base64", ed25519.SeedSize)
	}
	private := ed25519.NewKeyFromSeed(seed)
	return &SigningKey{
		id:     words[0] + ":" + words[1],
		public: ed25519.PublicKey(private[ed25519.SeedSize:]),
		sign:   func(message []byte) []byte { return ed25519.Sign(private, message) },
	}, nil
}

// ID returns the key's id, such as "ed25519:a_XLZw".
func (k SigningKey) ID() string { return k.id }

// Public returns the public key, which verifies signatures.
func (k SigningKey) Public() ed25519.PublicKey { return k.public }

// String implements [fmt.Stringer] and returns the key's id.
func (k SigningKey) String() string { return k.id }

// GoString implements [fmt.GoStringer] and returns the key's id.
func (k SigningKey) GoString() string { return "matrix.SigningKey(" + k.id + ")" }

// LogValue implements [slog.LogValuer] and returns the key's id.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(k.id) }

// decodeBase64 decodes base64 with or without padding.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// GenerateSigningKey generates a signing key and returns the contents of its key
// file.
func GenerateSigningKey() string {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return "ed25519 a_" + rand.Text()[:6] + " " + base64.RawStdEncoding.EncodeToString(seed) + "\n"
}
