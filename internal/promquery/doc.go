// Package promquery knows how to ask a Prometheus for one number.
//
// It promises that each question ends within 2 s, and that no error repeats the URL, which
// may have a password. It must never take an answer without a number for 0.
package promquery
