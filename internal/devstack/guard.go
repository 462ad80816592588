package devstack

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
)

// A Guard lets clients in by TLS alone, and only with a password.
type Guard struct {
	// Authority is the certificate of who has signed Certificate, in PEM. It is
	// what clients have to trust.
	Authority []byte

	// Certificate and Key are the server's, in PEM.
	Certificate, Key []byte

	// Host is the name in the certificate by which URLs name the server. It must
	// be that of 127.0.0.1. Defaults to "localhost".
	Host string

	// Password is what clients have to know. It is no empty one.
	Password string
}

// The names of a Guard's files in the directory of the server.
const (
	authorityFile = "ca.crt"
	certFile      = "server.crt"
	keyFile       = "server.key"
	passwordFile  = "password"
)

func (g *Guard) host() string {
	if g.Host == "" {
		return "localhost"
	}
	return g.Host
}

// write puts files into the directory, for the server's user alone to read; the
// authority is for clients.
func (g *Guard) write(d directory, files map[string][]byte) error {
	files[authorityFile], files[certFile], files[keyFile] = g.Authority, g.Certificate, g.Key
	for name, text := range files {
		path := d.file(name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("write a file of the guard: %w", err)
		}
		if d.owner == nil {
			continue
		}
		if err := os.Chown(path, int(d.owner.Uid), int(d.owner.Gid)); err != nil {
			return fmt.Errorf("write a file of the guard: %w", err)
		}
	}
	return nil
}

// redisArguments makes what a Redis behind the guard needs. The password is in a
// file, which is the first argument: arguments show in every list of processes.
func (g *Guard) redisArguments(d directory) ([]string, error) {
	const configFile = "redis.conf"
	err := g.write(d, map[string][]byte{configFile: []byte("requirepass " + strconv.Quote(g.Password) + "\n")})
	if err != nil {
		return nil, err
	}
	return []string{
		d.file(configFile), "--tls-cert-file", d.file(certFile), "--tls-key-file", d.file(keyFile),
		"--tls-ca-cert-file", d.file(authorityFile), "--tls-auth-clients", "no",
	}, nil
}

func (g *Guard) redisURL(port int, d directory) string {
	u := url.URL{
		Scheme: "rediss", User: url.UserPassword("", g.Password), Host: net.JoinHostPort(g.host(), strconv.Itoa(port)), Path: "/0",
		RawQuery: url.Values{"ca_file": {d.file(authorityFile)}}.Encode(),
	}
	return u.String()
}

// initArguments makes initdb give the superuser the password.
func (g *Guard) initArguments(d directory) ([]string, error) {
	if err := g.write(d, map[string][]byte{passwordFile: []byte(g.Password + "\n")}); err != nil {
		return nil, err
	}
	return []string{"--auth=scram-sha-256", "--pwfile=" + d.file(passwordFile)}, nil
}

// admitByTLSAlone says so to the PostgreSQL whose data are in the folder.
func (g *Guard) admitByTLSAlone(data string) error {
	path := filepath.Join(data, "pg_hba.conf") // which initdb has made, so its owner is right
	if err := os.WriteFile(path, []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n"), 0o600); err != nil {
		return fmt.Errorf("write the guard's rule: %w", err)
	}
	return nil
}

// addTo makes the URL of a PostgreSQL one that gets past the guard.
func (g *Guard) addTo(u *url.URL, port int, d directory) {
	u.User = url.UserPassword(u.User.Username(), g.Password)
	u.Host = net.JoinHostPort(g.host(), strconv.Itoa(port))
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {d.file(authorityFile)}}.Encode()
}
