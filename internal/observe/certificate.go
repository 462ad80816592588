package observe

import (
	"bytes"
	"cmp"
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
	// Every is the shortest time between two checks of the files. Defaults to 10s.
	Every time.Duration

	// Log gets a warning when the files have changed and cannot be used. Defaults
	// to a logger that discards everything.
	Log *slog.Logger
}

// A Certificate is a server's certificate and its key, in two files. It reads the
// files again when they change, so that a certificate can be renewed without a
// restart. If the new files cannot be used, it keeps the certificate that it has.
// Make one with [OpenCertificate]. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	options           CertificateOptions

	mu      sync.Mutex
	current *tls.Certificate
	cert    []byte // contents of certFile when current was read
	key     []byte // contents of keyFile when current was read
	checked time.Time
}

// OpenCertificate reads the files, which are PEM. It fails if they cannot be used.
func OpenCertificate(certFile, keyFile string, options CertificateOptions) (*Certificate, error) {
	options.Every = cmp.Or(options.Every, 10*time.Second)
	options.Log = cmp.Or(options.Log, slog.New(slog.DiscardHandler))
	c := &Certificate{certFile: certFile, keyFile: keyFile, options: options}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// TLS returns the TLS settings of a server with this certificate.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.latest(hello.Context()), nil
		},
	}
}

// latest returns the certificate, after checking the files if it is time to.
func (c *Certificate) latest(ctx context.Context) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= c.options.Every {
		if err := c.read(); err != nil {
			c.options.Log.WarnContext(ctx, "new certificate cannot be used; keeping the old one", "error", err)
		}
	}
	return c.current
}

// read reads the files. While only one of the two has been replaced, they do not fit
// together: the next check reads them again.
func (c *Certificate) read() error {
	c.checked = time.Now()
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
