package observe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerOptions are the choices for a [Server].
type ServerOptions struct {
	// DrainTimeout is how long requests may go on after the server was told to
	// stop; then their connections are cut. Defaults to 10s.
	DrainTimeout time.Duration

	// Log takes what net/http has to say, such as panics of handlers, as
	// warnings. Defaults to none of it being written.
	Log *slog.Logger

	// TLS serves HTTPS, with the certificate of these settings. Defaults to nil,
	// plain HTTP.
	TLS *tls.Config

	// WriteTimeout is how long a request may take, from the end of its headers
	// to the end of its answer; then its connection is cut. Keep it above the
	// longest that a handler may wait. Defaults to 2m.
	WriteTimeout time.Duration
}

// A Server serves one address over HTTP/1.1, or by TLS, with a deadline for every wait on
// a client. Make one with [Listen].
type Server struct {
	drain    time.Duration
	listener net.Listener
	server   *http.Server
}

// Listen takes the address, a host:port, and returns a server that will answer
// with the handler. Port 0 takes a free port, which [Server.Addr] tells.
// Clients can connect at once, and are answered once [Server.Serve] runs. The
// caller must call Serve or [Server.Close].
func Listen(ctx context.Context, address string, handler http.Handler, options ServerOptions) (*Server, error) {
	if options.DrainTimeout == 0 {
		options.DrainTimeout = 10 * time.Second
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.WriteTimeout == 0 {
		options.WriteTimeout = 2 * time.Minute
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	// HTTP/2 would come with TLS alone, and lets one connection do what each limit
	// here means for one request.
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

			// The handler answers "OPTIONS *" too.
			DisableGeneralOptionsHandler: true,
		},
	}, nil
}

// Addr returns the host:port that the server is bound to.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close stops a server at once, cutting every connection, and frees its
// address. Further calls do nothing.
func (s *Server) Close() error {
	err := s.server.Close()
	if closeErr := s.listener.Close(); !errors.Is(closeErr, net.ErrClosed) { // by the first, or by an earlier call
		err = errors.Join(err, closeErr)
	}
	if err != nil {
		return fmt.Errorf("close HTTP server: %w", err)
	}
	return nil
}

// Serve answers requests until ctx ends. Then it takes no new ones, lets those
// in flight finish within the drain timeout, and returns nil; if some did not
// finish, it cuts their connections, ends their contexts and returns an error
// that wraps [context.DeadlineExceeded]. Requests do not see the end of ctx
// itself. If the listener fails, Serve returns why. Call it once: after a Serve
// or a [Server.Close] it returns an error that wraps [http.ErrServerClosed].
func (s *Server) Serve(ctx context.Context) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
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

	deadline, stop := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer stop()
	err := s.server.Shutdown(deadline)
	// It has returned, or is about to, since Shutdown closed the listener.
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("drain HTTP server: %w", err), s.Close())
	}
	return nil
}
