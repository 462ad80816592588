package homeserver

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// forwarded are the headers that say where a request comes from.
var forwarded = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// Pass passes a request on and writes the answer as it arrives, after prepare has
// seen its headers. path is the request's path as it was sent, with all escapes. It
// begins with a slash and another character. The caller has set X-Forwarded-For,
// X-Forwarded-Host and X-Forwarded-Proto, which the homeserver believes.
//
// An error means that there is no answer and that nothing was written. If the answer
// breaks off, Pass panics with [http.ErrAbortHandler], so that the server cuts the
// connection.
func (c *Client) Pass(w http.ResponseWriter, r *http.Request, path string, prepare func(http.Header)) (err error) {
	proxy := httputil.ReverseProxy{
		Transport: noUpgrade{c.transport},
		ErrorLog:  log.New(io.Discard, "", 0), // the panic is enough
		Rewrite: func(p *httputil.ProxyRequest) {
			// Opaque is sent as it is; a Path would be escaped again.
			p.Out.URL = &url.URL{
				Scheme: c.base.Scheme, Host: c.base.Host, Opaque: path,
				RawQuery: p.In.URL.RawQuery, ForceQuery: p.In.URL.ForceQuery,
			}
			p.Out.Host = ""
			// ReverseProxy has removed them, because a client may have made them up.
			for _, name := range forwarded {
				if values := p.In.Header.Values(name); len(values) > 0 {
					p.Out.Header[name] = values
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

// noUpgrade makes it an error if an answer switches to another protocol: the
// connection would then have no end and no bound.
type noUpgrade struct{ http.RoundTripper }

func (t noUpgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		return nil, errors.Join(errors.New("the homeserver upgrades the connection unasked"), response.Body.Close())
	}
	return response, err
}

// finalOnly drops the interim responses that may precede an answer, because not
// every ResponseWriter can tell them from the answer.
type finalOnly struct{ http.ResponseWriter }

func (w finalOnly) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap is for [http.ResponseController].
func (w finalOnly) Unwrap() http.ResponseWriter { return w.ResponseWriter }
