package observe

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// CertificateOptions are the choices for a [Certificate].
type CertificateOptions struct {
	// Every is how often the files are looked at, at most. Defaults to 10s.
	Every time.Duration

	// Log takes a warning when the files cannot be used any more. Defaults to
	// none being written.
	Log *slog.Logger
}

// A Certificate is a server's certificate and its key in two files, which are
// read again when they have changed, as whoever renews certificates changes them.
// What cannot be used is not: the last one that could stays. Make one with
// [OpenCertificate]. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	options           CertificateOptions

	mu      sync.Mutex
	current *tls.Certificate
	cert    []byte // of the files when they were last looked at, and so is key
	key     []byte // "
	looked  time.Time
}

// OpenCertificate reads the files, which are PEM. It fails if they cannot be used.
func OpenCertificate(certFile, keyFile string, options CertificateOptions) (*Certificate, error) {
	if options.Every == 0 {
		options.Every = 10 * time.Second
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	c := &Certificate{certFile: certFile, keyFile: keyFile, options: options}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.look(); err != nil {
		return nil, err
	}
	return c, nil
}

// TLS returns the settings of a server that shows the certificate.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.now(hello.Context()), nil
		},
	}
}

// now returns the certificate that is to be shown.
func (c *Certificate) now(ctx context.Context) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= c.options.Every {
		if err := c.look(); err != nil {
			c.options.Log.WarnContext(ctx, "certificate not renewed: the last one is still shown", "error", err)
		}
	}
	return c.current
}

// look reads the files. One that was replaced a moment before the other does not
// fit it, and is looked at again the next time.
func (c *Certificate) look() error {
	c.looked = time.Now()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return fmt.Errorf("read the certificate's key: %w", err)
	}
	if c.current != nil && bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("use the certificate in %s and the key in %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.cert, c.key = &pair, cert, key
	return nil
}
