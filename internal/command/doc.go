// Package command knows how the programs of Lethe read a command line: exit statuses,
// names of unknown words, and the flags with a single dash of earlier versions.
//
// It promises that every program ends with the same statuses for the same reasons, and
// prints why on stderr. It must never know what a command does.
package command
