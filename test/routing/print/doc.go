// Print writes the requests of the table as lines of JSON, for tests in modules that cannot
// import Lethe's packages. Its working directory is the top of the repository.
//
// It promises one line for each request, in the same order each time. It must never send a
// request.
package main
