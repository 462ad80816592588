package chaos

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A proxy stands between the fleet and a server, and disturbs their connections.
type proxy struct {
	address string
	ctx     context.Context
	group   sync.WaitGroup

	mu      sync.Mutex
	target  string
	links   map[*link]struct{}
	refuses bool
	stalled chan struct{} // closed when the stall ends, nil without one
	delay   time.Duration
	loses   *rand.Rand // connections are cut at random messages, nil if not
}

// A link is a connection of a client and the one to the server that belongs to it.
type link struct {
	client, server net.Conn

	// silent links stay open, and pass nothing any more.
	silent bool

	// deaf links are closed when the server answers the next time.
	deaf bool
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// newProxy starts a proxy of the server with that host and port. It ends with the test.
func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	p := &proxy{address: listener.Addr().String(), ctx: ctx, target: target, links: map[*link]struct{}{}}
	p.group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.group.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		p.cut()
		p.group.Wait()
	})
	return p
}

func (p *proxy) serve(client net.Conn) {
	p.mu.Lock()
	target, refuses := p.target, p.refuses || p.ctx.Err() != nil
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil || refuses {
		_ = client.Close()
		if err == nil {
			_ = server.Close()
		}
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.refuses || p.ctx.Err() != nil {
		l.close()
	}
	p.mu.Unlock()
	var directions sync.WaitGroup
	directions.Go(func() { p.pass(l, true) })
	directions.Go(func() { p.pass(l, false) })
	directions.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pass copies messages in one direction until an end closes its connection.
func (p *proxy) pass(l *link, fromClient bool) {
	defer l.close()
	from, to := l.client, l.server
	if !fromClient {
		from, to = to, from
	}
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			if l.isSilent(p) && !fromClient {
				// The client does not learn that the server has closed the connection.
				_, _ = io.Copy(io.Discard, l.client)
			}
			return
		}
		switch p.gate(l, fromClient) {
		case drops:
		case closes:
			return
		case passes:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

func (l *link) isSilent(p *proxy) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.silent
}

type verdict int

const (
	passes verdict = iota
	drops
	closes
)

// gate waits as long as messages have to wait, and says what becomes of the message.
func (p *proxy) gate(l *link, fromClient bool) verdict {
	p.mu.Lock()
	stalled, delay := p.stalled, p.delay
	p.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-p.ctx.Done():
			return closes
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.ctx.Done():
			return closes
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case l.silent:
		return drops
	case l.deaf && !fromClient:
		return closes
	case fromClient && p.loses != nil:
		switch p.loses.IntN(40) {
		case 0: // the message is lost
			return closes
		case 1: // its answer is lost
			l.deaf = true
		}
	}
	return passes
}

// set changes how the proxy disturbs connections.
func (p *proxy) set(change func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// cut closes all connections, with what they have not passed yet.
func (p *proxy) cut() {
	p.set(func(p *proxy) {
		for l := range p.links {
			l.close()
		}
	})
}

// silence makes all connections silent that are open now.
func (p *proxy) silence() {
	p.set(func(p *proxy) {
		for l := range p.links {
			l.silent = true
		}
	})
}

// count returns how many connections are open, and how many of them are silent.
func (p *proxy) count() (open, silent int) {
	p.set(func(p *proxy) {
		for l := range p.links {
			open++
			if l.silent {
				silent++
			}
		}
	})
	return open, silent
}
