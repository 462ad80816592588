package session

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func setup(t *testing.T, lasts time.Duration) *Store {
	t.Helper()
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return New(client, redisdb.NamesOf(strings.ToLower(t.Name())), lasts)
}

func TestSessionEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	s := setup(t, time.Hour)
	sent, begun, err := s.Begin(t.Context(), "@admin:x", "token")
	require.NoError(t, err)
	other, _, err := s.Begin(t.Context(), "@admin:x", "token")
	require.NoError(t, err)
	require.NotEqual(t, sent, other)

	found, err := s.Find(t.Context(), sent)
	require.NoError(t, err)
	require.Equal(t, "@admin:x", found.User)
	require.Equal(t, "token", found.Token)
	require.WithinDuration(t, time.Now().Add(time.Hour), found.Ends, time.Minute)
	require.True(t, found.Proves(begun.Proof()))
	require.False(t, found.Proves(""))
	require.NotContains(t, sent, found.Proof())

	require.NoError(t, s.End(t.Context(), sent))
	require.NoError(t, s.End(t.Context(), sent))
	_, err = s.Find(t.Context(), sent)
	require.ErrorIs(t, err, ErrNone)
	left, err := s.Find(t.Context(), other)
	require.NoError(t, err)
	require.False(t, left.Proves(begun.Proof()), "a session takes the proof of another")
}

func TestSessionEndsAtItsTime(t *testing.T) {
	t.Parallel()
	s := setup(t, 50*time.Millisecond)
	sent, _, err := s.Begin(t.Context(), "@admin:x", "token")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := s.Find(t.Context(), sent)
		return err != nil
	}, 10*time.Second, 10*time.Millisecond)
	_, err = s.Find(t.Context(), sent)
	require.ErrorIs(t, err, ErrNone)
}

func TestWhatIsNoSecretHasNoSession(t *testing.T) {
	t.Parallel()
	s := setup(t, time.Hour)
	sent, _, err := s.Begin(t.Context(), "@admin:x", "token")
	require.NoError(t, err)
	for _, text := range []string{"", "x", sent[1:], sent + "A", sent + "=", strings.Repeat("A", 43), "\x00", strings.Repeat("A", 1<<16)} {
		_, err := s.Find(t.Context(), text)
		require.ErrorIs(t, err, ErrNone, text)
		require.NoError(t, s.End(t.Context(), text))
	}
	_, err = s.Find(t.Context(), sent)
	require.NoError(t, err)
}

// Who can read Redis must learn no access token, and who can write it must not get in.
func TestRedisKnowsNoSecret(t *testing.T) {
	t.Parallel()
	s := setup(t, time.Hour)
	sent, begun, err := s.Begin(t.Context(), "@admin:x", "syt_token")
	require.NoError(t, err)
	key := s.names.ConsoleSession(begun.secret.id())
	stored, err := s.client.Get(t.Context(), key).Result()
	require.NoError(t, err)
	raw, err := base64.RawURLEncoding.DecodeString(sent)
	require.NoError(t, err)
	for _, text := range []string{sent, string(raw), "syt_token", "@admin:x"} {
		require.NotContains(t, key, text)
		require.NotContains(t, stored, text)
	}
	require.Positive(t, s.client.PTTL(t.Context(), key).Val())

	for name, text := range map[string]string{
		"plain":   `{"user":"@admin:x","token":"t","ends":"2999-01-01T00:00:00Z"}`,
		"nothing": "",
		"cut":     stored[:len(stored)-1],
		"another's": func() string {
			_, other, err := s.Begin(t.Context(), "@root:x", "t")
			require.NoError(t, err)
			return s.client.Get(t.Context(), s.names.ConsoleSession(other.secret.id())).Val()
		}(),
	} {
		require.NoError(t, s.client.Set(t.Context(), key, text, time.Hour).Err())
		_, err := s.Find(t.Context(), sent)
		require.ErrorIs(t, err, ErrNone, name)
	}
}

func TestErrorsHaveNoSecret(t *testing.T) {
	t.Parallel()
	client, err := redisdb.OpenForLocks("redis://127.0.0.1:1")
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	s := New(client, redisdb.NamesOf("errors"), time.Hour)
	_, _, err = s.Begin(t.Context(), "@admin:x", "syt_token")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "syt_token")
	sent := base64.RawURLEncoding.EncodeToString(make([]byte, secretBytes))
	_, err = s.Find(t.Context(), sent)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNone, "a session is lost because Redis is away for a moment")
	require.Error(t, s.End(t.Context(), sent))
}
