package devstack

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
)

// A Guard requires TLS and a password from clients.
type Guard struct {
	// Authority is the certificate of the authority that signed Certificate, in
	// PEM. Clients must trust it.
	Authority []byte

	// Certificate and Key are the server's certificate and key, in PEM.
	Certificate, Key []byte

	// Host is the server's name in its certificate and in URLs. It must resolve to
	// 127.0.0.1. Defaults to "localhost".
	Host string

	// Password is the password of clients. It must not be empty.
	Password string
}

// The names of a Guard's files in the server's directory.
const (
	authorityFile = "ca.crt"
	certFile      = "server.crt"
	keyFile       = "server.key"
	passwordFile  = "password"
)

func (g *Guard) host() string { return cmp.Or(g.Host, "localhost") }

// write writes the guard's files and the given ones into the directory. Only the
// server's user can read them.
func (g *Guard) write(d directory, files map[string][]byte) error {
	files[authorityFile], files[certFile], files[keyFile] = g.Authority, g.Certificate, g.Key
	for name, text := range files {
		if err := d.write(name, text); err != nil {
			return fmt.Errorf("write a file of the guard: %w", err)
		}
	}
	return nil
}

// redisArguments returns the arguments of a Redis with the guard, except for the password.
func (g *Guard) redisArguments(d directory) ([]string, error) {
	return []string{
		"--tls-cert-file", d.file(certFile), "--tls-key-file", d.file(keyFile),
		"--tls-ca-cert-file", d.file(authorityFile), "--tls-auth-clients", "no",
	}, g.write(d, map[string][]byte{})
}

func (g *Guard) redisURL(port int, d directory) string {
	u := url.URL{
		Scheme: "rediss", User: url.UserPassword("", g.Password), Host: net.JoinHostPort(g.host(), strconv.Itoa(port)), Path: "/0",
		RawQuery: url.Values{"ca_file": {d.file(authorityFile)}}.Encode(),
	}
	return u.String()
}

// initArguments returns the arguments with which initdb sets the superuser's password.
func (g *Guard) initArguments(d directory) ([]string, error) {
	if err := g.write(d, map[string][]byte{passwordFile: []byte(g.Password + "\n")}); err != nil {
		return nil, err
	}
	return []string{"--auth=scram-sha-256", "--pwfile=" + d.file(passwordFile)}, nil
}

// requireTLS makes the PostgreSQL with the given data directory accept only TLS.
func (g *Guard) requireTLS(data string) error {
	path := filepath.Join(data, "pg_hba.conf") // initdb has created it with the right owner
	if err := os.WriteFile(path, []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n"), 0o600); err != nil {
		return fmt.Errorf("write the guard's rule: %w", err)
	}
	return nil
}

// addTo adds to the URL of a PostgreSQL what the guard requires.
func (g *Guard) addTo(u *url.URL, port int, d directory) {
	u.User = url.UserPassword(u.User.Username(), g.Password)
	u.Host = net.JoinHostPort(g.host(), strconv.Itoa(port))
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {d.file(authorityFile)}}.Encode()
}
