// Package output prints documents: as JSON, as YAML, and as tables for people.
//
// It promises that what it prints is safe for a terminal, and that JSON and YAML mean the
// same as the document. It must never know what a document is about.
package output
