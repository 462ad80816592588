package observe

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// A pair is a certificate and its key in two files.
type pair struct{ cert, key string }

func (p pair) write(t *testing.T, cert, key []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(p.cert, cert, 0o600))
	require.NoError(t, os.WriteFile(p.key, key, 0o600))
}

func newPair(t *testing.T) pair {
	folder := t.TempDir()
	return pair{filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")}
}

func TestServerShowsTheCertificateOfNow(t *testing.T) {
	t.Parallel()
	authority := devstacktest.NewAuthority(t)
	oldCert, oldKey := authority.Certificate(t, "127.0.0.1", "old.example.org")
	newCert, newKey := authority.Certificate(t, "127.0.0.1", "new.example.org")
	files := newPair(t)
	files.write(t, oldCert, oldKey)
	var log bytes.Buffer
	certificate, err := OpenCertificate(files.cert, files.key, CertificateOptions{Every: time.Nanosecond, Log: NewLogger(&log, "info", "text")})
	require.NoError(t, err)
	address, stop, wait := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}), ServerOptions{TLS: certificate.TLS()})

	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(authority.PEM))
	shown := func(name string) (string, error) {
		client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: name},
		}}
		response, err := client.Get("https://" + address + "/")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return string(text), err
	}
	said, err := shown("old.example.org")
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1", said)
	_, err = shown("new.example.org")
	require.ErrorContains(t, err, "not new.example.org")

	// Half of a renewal, and what is none, change nothing.
	for _, broken := range [][2][]byte{{newCert, oldKey}, {[]byte("x"), []byte("y")}, {nil, nil}} {
		files.write(t, broken[0], broken[1])
		_, err = shown("old.example.org")
		require.NoError(t, err)
	}
	require.NoError(t, os.Remove(files.key))
	_, err = shown("old.example.org")
	require.NoError(t, err)
	files.write(t, newCert, newKey)
	_, err = shown("new.example.org")
	require.NoError(t, err)
	_, err = shown("old.example.org")
	require.Error(t, err)

	// Whoever does not speak TLS gets nothing of a page.
	response, err := http.Get("http://" + address + "/")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	_, err = tls.Dial("tcp", address, &tls.Config{RootCAs: trusted, ServerName: "new.example.org", MaxVersion: tls.VersionTLS11})
	require.Error(t, err)
	stop()
	require.NoError(t, wait())
	require.Contains(t, log.String(), "private key does not match public key")
	require.NotContains(t, log.String(), "PRIVATE KEY-----")
}

func TestCertificateThatCannotBeUsedAtTheStart(t *testing.T) {
	t.Parallel()
	authority := devstacktest.NewAuthority(t)
	cert, key := authority.Certificate(t, "a")
	_, otherKey := authority.Certificate(t, "b")
	files := newPair(t)
	_, err := OpenCertificate(files.cert, files.key, CertificateOptions{})
	require.ErrorContains(t, err, "read the certificate: open "+files.cert+": no such file")
	files.write(t, cert, otherKey)
	_, err = OpenCertificate(files.cert, files.key, CertificateOptions{})
	require.ErrorContains(t, err, "use the certificate in "+files.cert+" and the key in "+files.key)
	files.write(t, cert, key)
	require.NoError(t, os.Remove(files.key))
	_, err = OpenCertificate(files.cert, files.key, CertificateOptions{})
	require.ErrorContains(t, err, "read the certificate's key")
}

func TestServerBoundsHeaders(t *testing.T) {
	t.Parallel()
	address, _, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}), ServerOptions{})
	send := func(header string) string {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		// It may be cut off before it has said all.
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		status, _, _ := bytes.Cut(answer, []byte("\r\n"))
		return string(status)
	}
	require.Equal(t, "HTTP/1.1 204 No Content", send("A: "+string(bytes.Repeat([]byte("a"), 60<<10))))
	require.Equal(t, "HTTP/1.1 431 Request Header Fields Too Large", send("A: "+string(bytes.Repeat([]byte("a"), 80<<10))))
	require.Equal(t, "HTTP/1.1 431 Request Header Fields Too Large", send(string(bytes.Repeat([]byte("A: b\r\n"), 20_000))+"C: d"))
}
