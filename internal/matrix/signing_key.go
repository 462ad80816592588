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

// keyVersion is the part of a key's id that tells a server's keys apart.
var keyVersion = regexp.MustCompile(`^[A-Za-z0-9_]{1,100}$`)

// A SigningKey is a homeserver's key, with which it signs its users' events. It
// comes from [ParseSigningKey]; the zero value cannot sign. However it is
// printed, logged or encoded, it shows no more than its id.
type SigningKey struct {
	id     string
	public ed25519.PublicKey

	// sign holds the secret. It is a function because nothing that prints or
	// encodes values looks into one.
	sign func(message []byte) []byte
}

// ParseSigningKey parses the text of a homeserver's key file. A line is the
// algorithm, the key's version and its seed in base64, as in
// "ed25519 a_XLZw …". The first line that is neither blank nor a comment, which
// begins with #, is the key; the others are not read. Errors do not repeat the
// text.
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
		return nil, errors.New("not three words: algorithm, version, seed")
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

// ID returns the key's id, as in "ed25519:a_XLZw".
func (k SigningKey) ID() string { return k.id }

// Public returns the public key, with which others verify signatures.
func (k SigningKey) Public() ed25519.PublicKey { return k.public }

// String implements [fmt.Stringer]. It is the key's id.
func (k SigningKey) String() string { return k.id }

// GoString implements [fmt.GoStringer]. It is the key's id.
func (k SigningKey) GoString() string { return "matrix.SigningKey(" + k.id + ")" }

// LogValue implements [slog.LogValuer]. It is the key's id.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(k.id) }

// decodeBase64 decodes base64 with or without padding.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// GenerateSigningKey makes a new signing key, and returns what a key file of it
// holds.
func GenerateSigningKey() string {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return "ed25519 a_" + rand.Text()[:6] + " " + base64.RawStdEncoding.EncodeToString(seed) + "\n"
}
