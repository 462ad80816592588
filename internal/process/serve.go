package process

import (
	"context"
	"net/http"

	"golang.org/x/sync/errgroup"

	"lethe/internal/observe"
)

// listen opens a server for each part that has an address. It fails if an address
// or a certificate cannot be used. The process closes the servers.
func (p *process) listen(ctx context.Context, health http.Handler, parts []part) ([]*observe.Server, error) {
	var servers []*observe.Server
	for _, part := range parts {
		if part.listen == "" {
			continue
		}
		handler := health
		if part.handler != nil {
			handler = part.handler(health)
		}
		options := observe.ServerOptions{Log: p.log}
		if part.tls.CertFile != "" {
			certificate, err := observe.OpenCertificate(part.tls.CertFile, part.tls.KeyFile, observe.CertificateOptions{Log: p.log})
			if err != nil {
				return nil, err
			}
			options.TLS = certificate.TLS()
		}
		server, err := observe.Listen(ctx, part.listen, handler, options)
		if err != nil {
			return nil, err
		}
		// Usually Serve has closed it already: this is for a start that fails.
		p.onClose(func(context.Context) { _ = server.Close() })
		p.log.InfoContext(ctx, "listening", "process", "lethe "+part.name, "address", server.Addr())
		servers = append(servers, server)
	}
	return servers, nil
}

// run serves HTTP at once, and runs the parts as soon as the servers that they need
// are ready. It returns when the context has ended and everything has drained, or
// when something fails: then it stops the rest and returns the first error.
func (p *process) run(ctx context.Context, servers []*observe.Server, parts []part) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, server := range servers {
		group.Go(func() error { return server.Serve(ctx) })
	}
	group.Go(func() error {
		if err := p.awaitServers(ctx); err != nil {
			return err
		}
		for _, part := range parts {
			if part.run != nil && ctx.Err() == nil {
				group.Go(func() error { return part.run(ctx) })
			}
		}
		return nil
	})
	return group.Wait()
}
