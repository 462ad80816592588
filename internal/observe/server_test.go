package observe

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serve starts a server; stop ends its context, and wait returns what Serve
// does.
func serve(t *testing.T, handler http.Handler, options ServerOptions) (address string, stop func(), wait func() error) {
	t.Helper()
	server, err := Listen(t.Context(), "127.0.0.1:0", handler, options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- server.Serve(ctx) }()
	wait = func() error {
		select {
		case err := <-result:
			result <- err // for the next to ask
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("Serve did not return")
			return nil
		}
	}
	t.Cleanup(func() {
		cancel()
		_ = wait()
	})
	return server.Addr(), cancel, wait
}

// request sends a GET in the background. Its result is the body, or "" if the
// request failed.
func request(t *testing.T, address string) <-chan string {
	t.Helper()
	body := make(chan string, 1)
	go func() {
		client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get("http://" + address + "/")
		if err != nil {
			body <- ""
			return
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		body <- string(text)
	}()
	return body
}

func TestServerFinishesRequestsBeforeItStops(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	address, stop, wait := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		if r.Context().Err() == nil {
			_, _ = io.WriteString(w, "done")
		}
	}), ServerOptions{})

	body := request(t, address)
	<-arrived
	stop()
	// It is refusing newcomers, and so draining, while the request is in flight.
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 30*time.Second, time.Millisecond)
	close(release)
	require.Equal(t, "done", <-body)
	require.NoError(t, wait())
}

// An answer that would go on for long can end when the server drains.
func TestServerTellsThatItDrains(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	address, stop, wait := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		select {
		case <-Draining(r.Context()):
			_, _ = io.WriteString(w, "goodbye")
		case <-r.Context().Done():
		}
	}), ServerOptions{})
	body := request(t, address)
	<-begun
	stop()
	require.Equal(t, "goodbye", <-body)
	require.NoError(t, wait())
	require.Nil(t, Draining(t.Context()))
}

func TestServerCutsRequestsThatDoNotFinish(t *testing.T) {
	t.Parallel()
	arrived, ended := make(chan struct{}), make(chan struct{})
	address, stop, wait := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	}), ServerOptions{DrainTimeout: 10 * time.Millisecond})

	body := request(t, address)
	<-arrived
	stop()
	require.ErrorIs(t, wait(), context.DeadlineExceeded)
	<-ended
	require.Empty(t, <-body)
}

func TestServerLogsPanics(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	address, stop, wait := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }),
		ServerOptions{Log: NewLogger(&out, "info", "text")})
	require.Empty(t, <-request(t, address))
	stop()
	require.NoError(t, wait())
	require.Contains(t, out.String(), "level=WARN")
	require.Contains(t, out.String(), "oh")
}

func TestServerStoppedBeforeItServes(t *testing.T) {
	t.Parallel()
	server, err := Listen(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), ServerOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Whichever comes first, stop or start, it ends well and once.
	require.NoError(t, server.Serve(ctx))
	require.ErrorIs(t, server.Serve(t.Context()), http.ErrServerClosed)
	_, err = net.Dial("tcp", server.Addr())
	require.Error(t, err)
}

func TestServerClose(t *testing.T) {
	t.Parallel()
	server, err := Listen(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), ServerOptions{})
	require.NoError(t, err)
	require.NoError(t, server.Close())
	require.NoError(t, server.Close())
	require.ErrorIs(t, server.Serve(t.Context()), http.ErrServerClosed)

	// The address is free again.
	again, err := Listen(t.Context(), server.Addr(), http.NotFoundHandler(), ServerOptions{})
	require.NoError(t, err)
	defer again.Close()
	_, err = Listen(t.Context(), server.Addr(), http.NotFoundHandler(), ServerOptions{})
	require.ErrorContains(t, err, "listen for HTTP: ")
	require.ErrorContains(t, err, server.Addr())
}

func TestServerReturnsItsListenersFailure(t *testing.T) {
	t.Parallel()
	server, err := Listen(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), ServerOptions{})
	require.NoError(t, err)
	require.NoError(t, server.listener.Close())
	require.ErrorIs(t, server.Serve(t.Context()), net.ErrClosed)
}
