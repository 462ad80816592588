// Package mutants has changes to the program that break one of its promises, and runs the
// tests that must notice.
//
// It promises that each change applies to the present source, and that a run of all of
// them says which were killed and which survived. It must never change the source itself:
// the go command compiles a changed copy of one file in its place.
package mutants
