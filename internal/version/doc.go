// Package version knows which version of Lethe this program is.
//
// It promises an answer for every build: with the linker's flags, from a checkout, and
// from neither. It must never read anything but the program itself.
package version
