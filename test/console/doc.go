// Package console tests the console in a real browser. It is a module of its own, so that
// what drives the browser stays out of Lethe's go.mod.
package console
