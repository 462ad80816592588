package matrix

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// specSeed and the signed texts are from the appendix of the Matrix specification.
const specSeed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"

func specKey(t testing.TB) *SigningKey {
	t.Helper()
	key, err := ParseSigningKey("ed25519 1 " + specSeed)
	require.NoError(t, err)
	return key
}

func TestParseSigningKey(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"ed25519 1 " + specSeed,
		"ed25519 1 " + specSeed + "\n",
		"\r\n# the old one was lost\n\n \ted25519\t1  " + specSeed + " \r\ned25519 2 too short\n",
		"ed25519 1 " + specSeed + "=",
	} {
		key, err := ParseSigningKey(text)
		require.NoError(t, err)
		require.Equal(t, "ed25519:1", key.ID())
		require.Equal(t, "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", base64.RawStdEncoding.EncodeToString(key.Public()))
		require.Equal(t, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
			base64.RawStdEncoding.EncodeToString(key.sign([]byte(`{}`))))
		require.Equal(t, "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
			base64.RawStdEncoding.EncodeToString(key.sign([]byte(`{"one":1,"two":"Two"}`))))
	}
	for _, text := range []string{
		"", "\n# nothing\n", specSeed, "ed25519 " + specSeed, "1 " + specSeed, "ed25519 1 " + specSeed + " x", "curve25519 1 " + specSeed,
		"ed25519 a:b " + specSeed, "ed25519 1 " + specSeed[1:], "ed25519 1 " + specSeed + "AAA", "ed25519 1 " + strings.Replace(specSeed, "+", "-", 1),
		"ed25519:1 " + specSeed, specSeed + " 1 ed25519", "ed25519 " + strings.Repeat("1", 101) + " " + specSeed,
	} {
		key, err := ParseSigningKey(text)
		require.Error(t, err, text)
		require.Nil(t, key)
		require.NotContains(t, err.Error(), specSeed[5:20], "an error must not contain the key")
	}
}

func TestSigningKeyIsNotRevealed(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	seed, err := decodeBase64(specSeed)
	require.NoError(t, err)
	var out bytes.Buffer
	for _, value := range []any{key, *key, []SigningKey{*key}, struct{ k SigningKey }{*key}, struct{ k *SigningKey }{key}, map[string]SigningKey{"k": *key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		encoded, err := json.Marshal(value)
		require.NoError(t, err)
		out.Write(encoded)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "key", value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "key", value)
	}
	require.Contains(t, out.String(), "ed25519:1")
	for _, secret := range []string{
		specSeed, string(seed), fmt.Sprintf("%x", seed[:8]), fmt.Sprintf("%X", seed[:8]),
		strings.Trim(fmt.Sprintf("%d", seed[:8]), "[]"), strings.Trim(fmt.Sprintf("%o", seed[:8]), "[]"), strings.Trim(fmt.Sprintf("%#v", seed[:8]), "[]byte{}"),
	} {
		require.NotContains(t, out.String(), secret)
	}
}

// FuzzParseSigningKey checks that an accepted key can sign and has an id that fits into
// an event, and that errors do not contain long words of the text.
func FuzzParseSigningKey(f *testing.F) {
	for _, seed := range []string{"ed25519 1 " + specSeed, "# x\n\ned25519 a_XLZw " + specSeed + "=\r\n", "ed25519 1 x", "", "rsa 1 " + specSeed} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseSigningKey(text)
		if err != nil {
			for _, word := range strings.Fields(text) {
				if len(word) > 20 {
					require.NotContains(t, err.Error(), word)
				}
			}
			return
		}
		event := Event{Type: "t", RoomID: "!r:b", Sender: "@a:b"}
		sealed, err := event.Seal("11", "b", key)
		require.NoError(t, err)
		require.NoError(t, VerifySignature("11", sealed.JSON, "b", key.ID(), key.Public()))
	})
}

func TestGeneratedSigningKeyIsValid(t *testing.T) {
	t.Parallel()
	text := GenerateSigningKey()
	key, err := ParseSigningKey(text)
	require.NoError(t, err)
	require.NotEqual(t, text, GenerateSigningKey())
	event, err := Event{Type: "t", RoomID: "!r:x", Sender: "@u:x"}.Seal("10", "x", key)
	require.NoError(t, err)
	require.NoError(t, VerifySignature("10", event.JSON, "x", key.ID(), key.Public()))
}
