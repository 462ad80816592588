// Package storetest is the test kit of the packages below store: a test database
// with everything that reads and writes it.
//
// It promises that each lab has a database that no other test uses, and that its
// connections are closed when the test ends. It must never be imported outside
// tests.
package storetest
