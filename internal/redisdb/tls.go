package redisdb

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// tlsFiles are the files that a URL names for TLS, "" where it names none.
type tlsFiles struct{ ca, cert, key string }

// cutTLSFiles returns the files that the options of a URL's tail name, and the
// tail without them, which the client library does not know.
func cutTLSFiles(tail string, byTLS bool) (files tlsFiles, rest string, err error) {
	path, query, _ := strings.Cut(tail, "?")
	options, err := url.ParseQuery(query)
	if err != nil {
		return tlsFiles{}, "", errURL
	}
	files = tlsFiles{ca: options.Get("ca_file"), cert: options.Get("cert_file"), key: options.Get("key_file")}
	switch {
	case files == tlsFiles{}:
		return files, tail, nil
	case !byTLS:
		return tlsFiles{}, "", errors.New("Redis URL: ca_file, cert_file and key_file are for rediss://, rediss-sentinel:// and rediss-cluster://")
	case (files.cert == "") != (files.key == ""):
		return tlsFiles{}, "", errors.New("Redis URL: cert_file and key_file go together")
	}
	for _, option := range []string{"ca_file", "cert_file", "key_file"} {
		options.Del(option)
	}
	if len(options) > 0 {
		path += "?" + options.Encode()
	}
	return files, path, nil
}

// secure makes the client use the files.
func (t target) secure() error {
	var config *tls.Config
	switch {
	case t.sentinel != nil:
		config = t.sentinel.TLSConfig
	case t.cluster != nil:
		config = t.cluster.TLSConfig
	default:
		config = t.server.TLSConfig
	}
	if config == nil {
		return nil
	}
	// The library names the first host for all. Without a name each server is
	// asked for that which it was reached by.
	config.ServerName, config.MinVersion = "", tls.VersionTLS12
	if t.tls.ca != "" {
		text, err := os.ReadFile(t.tls.ca)
		if err != nil {
			return fmt.Errorf("read the ca_file of the Redis URL: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return errors.New("the ca_file of the Redis URL holds no certificate in PEM")
		}
	}
	if t.tls.cert == "" {
		return nil
	}
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		certificate, err := tls.LoadX509KeyPair(t.tls.cert, t.tls.key)
		if err != nil {
			return nil, fmt.Errorf("read the cert_file and key_file of the Redis URL: %w", err)
		}
		return &certificate, nil
	}
	if _, err := load(nil); err != nil {
		return err
	}
	config.GetClientCertificate = load // again for each connection, as they may change
	return nil
}
