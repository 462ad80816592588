// Package doctor examines the servers that Lethe's settings name. It reports what
// keeps Lethe from working, or from working fast, and what to do about it.
//
// It changes nothing, ends soon, and prints no secret. Processes do not depend on
// it: each checks what it needs by itself.
package doctor
