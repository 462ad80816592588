package terminal_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/terminal"
)

// hostile has an escape, a C1 control, a reversal of direction and a tag character.
const hostile = "a\x1b[31m\nb\u009b2J\u202e\U000e0041\x00z"

func TestTextIsSafe(t *testing.T) {
	t.Parallel()
	require.Equal(t, `a\x1b[31m\nb\u009b2J\u202e\U000e0041\x00z`, terminal.Text(hostile))
	const plain = `Größe "50 %" \ 日本 👍`
	require.Equal(t, plain, terminal.Text(plain))
	require.Equal(t, "a\\x1b[31m\nb", terminal.Lines("a\x1b[31m\nb"))
	require.Equal(t, "abc", terminal.Short("abc", 3))
	require.Equal(t, "ab…", terminal.Short("abcd", 3))
	require.Equal(t, "…", terminal.Short("abcd", 0))
}

func TestDocumentMeansTheSame(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(map[string]string{"reason": hostile}, "", "  ")
	require.NoError(t, err)
	safe := terminal.Document(text)
	for _, r := range string(bytes.ReplaceAll(safe, []byte("\n"), nil)) {
		require.False(t, terminal.HasUnsafe(string(r)), "%q", r)
	}
	var back map[string]string
	require.NoError(t, json.Unmarshal(safe, &back))
	require.Equal(t, hostile, back["reason"])
	require.False(t, terminal.Is(&bytes.Buffer{}))
}
