package matrix

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidServerName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"matrix.org", "matrix.org:8888", "localhost", "EXAMPLE.org", "a", "1.2.3.4", "1.2.3.4:1234", "a.-.b", "xn--bcher-kva.example",
		"[1234:5678::abcd]", "[1234:5678::abcd]:5678", "[::1]", "[::]:0", "[::ffff:1.2.3.4]", "example.org:99999",
		strings.Repeat("a", 230),
	} {
		require.True(t, ValidServerName(name), name)
	}
	for _, name := range []string{
		"", ":", ":8448", "example.org:", "example.org:123456", "example.org:8448:1", "example.org:+80", "example.org:-1", "example.org: 80",
		"example.org/", "https://example.org", "user@example.org", "exa mple.org", "example.org\n", "example.org:80\n", "exam_ple.org", "bücher.example", "a\x00b",
		"::1", "[::1", "::1]", "[]", "[::1]8448", "[::1]:", "[::1]]", "[[::1]]", "[::1]:a", "[fe80::1%eth0]", "[1.2.3.4]", "[example.org]",
		strings.Repeat("a", 231),
	} {
		require.False(t, ValidServerName(name), name)
	}
}

// FuzzValidServerName checks that a valid name can be the authority of a URL, and
// contains nothing that ends the authority.
func FuzzValidServerName(f *testing.F) {
	for _, seed := range []string{"matrix.org:8888", "[::1]:8448", "[fe80::1%eth0]", "1.2.3.4", "a/b", "a@b", "a:99999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !ValidServerName(name) {
			return
		}
		if u, err := url.Parse("https://" + name + "/x"); err != nil || u.Host != name || u.Path != "/x" {
			t.Errorf("%q is not an authority: %+v, %v", name, u, err)
		}
	})
}
