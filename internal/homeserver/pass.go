package homeserver

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// Pass passes a request on, and writes the answer as it comes, after prepare has
// seen its headers. The path is the request's as it was sent, with every escape
// as it is, and begins with a slash and something else.
//
// An error means that there is no answer, and that nothing has been written. An
// answer that breaks off panics with [http.ErrAbortHandler], as a handler does
// whose connection is to be cut.
func (c *Client) Pass(w http.ResponseWriter, r *http.Request, path string, prepare func(http.Header)) (err error) {
	proxy := httputil.ReverseProxy{
		Transport: noUpgrade{c.transport},
		ErrorLog:  log.New(io.Discard, "", 0), // the panic is the news
		Rewrite: func(p *httputil.ProxyRequest) {
			// Opaque is sent as it stands; a Path would be escaped again.
			p.Out.URL = &url.URL{
				Scheme: c.base.Scheme, Host: c.base.Host, Opaque: path,
				RawQuery: p.In.URL.RawQuery, ForceQuery: p.In.URL.ForceQuery,
			}
			p.Out.Host = ""
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded() // which appends to it
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
				if told := p.In.Header.Values(name); len(told) > 0 {
					p.Out.Header[name] = told
				}
			}
		},
		ModifyResponse: func(response *http.Response) error {
			prepare(response.Header)
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, failure error) { err = failure },
	}
	proxy.ServeHTTP(finalOnly{w}, r)
	return err
}

// noUpgrade makes an answer that turns the connection into another an error:
// what follows it would have no end and no bound.
type noUpgrade struct{ http.RoundTripper }

func (t noUpgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		return nil, errors.Join(errors.New("the homeserver upgrades the connection unasked"), response.Body.Close())
	}
	return response, err
}

// finalOnly drops the hints that may precede an answer, since not every
// ResponseWriter can tell them from the answer.
type finalOnly struct{ http.ResponseWriter }

func (w finalOnly) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap is for [http.ResponseController].
func (w finalOnly) Unwrap() http.ResponseWriter { return w.ResponseWriter }
