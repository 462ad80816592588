// Package routing says which server answers a request, Lethe or Synapse, as docs/api.md and
// docs/routes.md say it. Its tests hold the files for reverse proxies in deploy against
// that, and run nginx and Caddy with them. The module test/traefik does the same with the
// routers of Traefik.
//
// It must never take a route from a proxy's own file: then a wrong rule would look right.
package routing
