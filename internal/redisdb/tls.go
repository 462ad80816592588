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

// tlsFiles are the TLS files of a URL. A file that is not set is "".
type tlsFiles struct{ ca, cert, key string }

// cutTLSFiles returns the TLS files in the options of a URL's tail, and the tail
// without these options, which the client library does not know.
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

// secure sets the TLS files in the client's options.
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
	// The library expects the first host's name from all servers. Without a name
	// it expects each server's own.
	config.ServerName, config.MinVersion = "", tls.VersionTLS12
	if t.tls.ca != "" {
		text, err := os.ReadFile(t.tls.ca)
		if err != nil {
			return fmt.Errorf("read the ca_file of the Redis URL: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return errors.New("the ca_file of the Redis URL contains no PEM certificate")
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
	config.GetClientCertificate = load // for each connection, because the files may change
	return nil
}
