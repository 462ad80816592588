// Package devstacktest provides servers and databases for tests: one PostgreSQL per
// test process with separate databases for each test, and a separate Redis for each
// test.
//
// It promises that tests and packages can run in parallel without affecting each other,
// and that everything it provides is removed when the test ends. If a server is not
// installed it fails the test, and never skips it. Only tests may import it.
package devstacktest
