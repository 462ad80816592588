package observe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// ServerOptions are the options of [Listen].
type ServerOptions struct {
	// DrainTimeout is how long requests may continue after the server has begun to
	// stop. Then their connections are closed. Defaults to 10s.
	DrainTimeout time.Duration

	// Log gets the messages of net/http, such as panics of handlers, as warnings.
	// Defaults to a logger that discards everything.
	Log *slog.Logger

	// TLS is the TLS settings for HTTPS. Defaults to nil, plain HTTP.
	TLS *tls.Config

	// WriteTimeout is the longest time from the end of a request's headers to the
	// end of the response. Then the connection is closed. Keep it above the longest
	// wait of a handler. Defaults to 2m.
	WriteTimeout time.Duration
}

// A Server serves HTTP/1.1, with or without TLS, on one address. Every wait for a
// client has a deadline. Make one with [Listen].
type Server struct {
	drain    time.Duration
	listener net.Listener
	server   *http.Server
}

// Listen listens on the address, a host:port, and returns a server with the handler.
// Port 0 takes a free port: see [Server.Addr]. Clients can connect at once, and get
// responses when [Server.Serve] runs. The caller must call Serve or [Server.Close].
func Listen(ctx context.Context, address string, handler http.Handler, options ServerOptions) (*Server, error) {
	options.DrainTimeout = cmp.Or(options.DrainTimeout, 10*time.Second)
	options.Log = cmp.Or(options.Log, slog.New(slog.DiscardHandler))
	options.WriteTimeout = cmp.Or(options.WriteTimeout, 2*time.Minute)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	// TLS alone would also enable HTTP/2, where one connection can have many requests
	// at once. The limits below are for one request per connection.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &Server{
		drain:    options.DrainTimeout,
		listener: listener,
		server: &http.Server{
			ErrorLog:          slog.NewLogLogger(options.Log.Handler(), slog.LevelWarn),
			Handler:           handler,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			Protocols:         &protocols,
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       30 * time.Second,
			TLSConfig:         options.TLS,
			WriteTimeout:      options.WriteTimeout,

			// The handler gets "OPTIONS *" too.
			DisableGeneralOptionsHandler: true,
		},
	}, nil
}

// Addr returns the host:port that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close closes all connections at once and frees the address. A second call does
// nothing.
func (s *Server) Close() error {
	err := s.server.Close()
	if closeErr := s.listener.Close(); !errors.Is(closeErr, net.ErrClosed) { // the line above, or an earlier call, has closed it
		err = errors.Join(err, closeErr)
	}
	if err != nil {
		return fmt.Errorf("close HTTP server: %w", err)
	}
	return nil
}

// Serve serves requests until ctx ends. Then it accepts no new ones, waits for the
// requests in progress, and returns nil. Requests that take longer than the drain
// timeout fail: Serve closes their connections, ends their contexts and returns an
// error that wraps [context.DeadlineExceeded]. The end of ctx alone does not end the
// context of a request. If the listener fails, Serve returns its error. Call Serve
// once: after Serve or [Server.Close] it returns an error that wraps
// [http.ErrServerClosed].
func (s *Server) Serve(ctx context.Context) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	draining := make(chan struct{})
	requests = context.WithValue(requests, drainingKey{}, (<-chan struct{})(draining))
	s.server.BaseContext = func(net.Listener) context.Context { return requests }

	failed := make(chan error, 1)
	go func() {
		if s.server.TLSConfig != nil {
			failed <- s.server.ServeTLS(s.listener, "", "")
			return
		}
		failed <- s.server.Serve(s.listener)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}

	close(draining)
	deadline, stop := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer stop()
	err := s.server.Shutdown(deadline)
	// Shutdown has closed the listener, so Serve returns now.
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("drain HTTP server: %w", err), s.Close())
	}
	return nil
}

type drainingKey struct{}

// Draining returns a channel that is closed when the [Server] of the request with the
// context drains: an answer that would go on for long should end. The channel is nil for
// other contexts.
func Draining(ctx context.Context) <-chan struct{} {
	draining, _ := ctx.Value(drainingKey{}).(<-chan struct{})
	return draining
}

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
