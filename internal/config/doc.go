// Package config knows Lethe's settings: their names, their defaults and what
// they may be. [Load] reads them from the YAML file that LETHE_CONFIG names
// and from LETHE_* variables, which win.
//
// It promises that a [Config] that it returns is valid and complete for the
// processes it was asked for, that a misspelt key or variable is refused rather
// than ignored, and that all mistakes are told at once. It must never repeat a
// setting's value in an error, since any of them may hold a password, and it
// connects to nothing.
package config
