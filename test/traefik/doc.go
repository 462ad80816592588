// Package traefik holds deploy/traefik/lethe.yml against docs/api.md and docs/routes.md with
// Traefik's own parser and routers. It is a module of its own, because Traefik needs many
// others, and "make traefik-test" runs it.
//
// It starts no Traefik. It must never become part of Lethe.
package traefik
