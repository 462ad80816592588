package matrix

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidUserID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"@alice:example.org", "@alice:example.org:8448", "@:example.org", "@alice:[::1]:8448", "@Ali ce!$%:example.org", "@élise:example.org",
		"@" + strings.Repeat("a", 242) + ":example.org",
	} {
		require.True(t, ValidUserID(id), id)
	}
	for _, id := range []string{
		"", "@", "@:", "alice", "alice:example.org", "!alice:example.org", "@alice", "@alice:", "@alice:exa mple.org", "@alice:example.org:", "@a:b:c",
		"@al\x00ice:example.org", "@al\xffice:example.org", " @alice:example.org", "@alice:example.org\n",
		"@" + strings.Repeat("a", 243) + ":example.org",
	} {
		require.False(t, ValidUserID(id), "%q", id)
	}
}

func TestServerOf(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"@alice:example.org": "example.org", "@alice:example.org:8448": "example.org:8448", "!r:[::1]": "[::1]", "$x:": "", ":": "", "#a:b:c": "b:c",
	} {
		server, ok := ServerOf(id)
		require.True(t, ok, id)
		require.Equal(t, want, server)
	}
	for _, id := range []string{"", "@alice", "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI"} {
		server, ok := ServerOf(id)
		require.False(t, ok, id)
		require.Empty(t, server)
	}
}

func TestValidRoomID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"!abc:example.org", "!:example.org", "!a b\x00:example.org", "!abc:example.org:99999", "!abc:1.2.3.4", "!abc:[::1]:0",
		"!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI", "!" + strings.Repeat("_", 43),
	} {
		require.True(t, ValidRoomID(id), "%q", id)
	}
	for _, id := range []string{
		"", "!", "!:", "invalidroom", "abc:example.org", "#abc:example.org", "!abc:", "!abc:exa mple.org", "!abc:example.org:", "!abc:example.org:x",
		"!abc:b:c", "!abc", "jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI", "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-b",
		"!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bIa", "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz+bI", "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-b=",
		"!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI\n", "$jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI", "!" + strings.Repeat("é", 43),
	} {
		require.False(t, ValidRoomID(id), "%q", id)
	}
}

// FuzzValidRoomID checks that a valid room id begins with !, and has either a valid
// server name or the length of a hash.
func FuzzValidRoomID(f *testing.F) {
	for _, seed := range []string{"!abc:example.org", "!:[::1]:1", "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI", "!", "!a:b:c", "@a:b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		server, ok := ServerOf(id)
		require.Equal(t, ok, strings.Contains(id, ":"))
		if ValidUserID(id) {
			require.Equal(t, byte('@'), id[0])
			require.True(t, ValidServerName(server))
		}
		if !ValidRoomID(id) {
			return
		}
		require.Equal(t, byte('!'), id[0])
		if ok {
			require.True(t, ValidServerName(server))
		} else {
			require.Len(t, id, 44)
		}
	})
}
