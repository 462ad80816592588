//go:build !strangers

package devstacktest

import "context"

// addStrangers does nothing without the build tag strangers.
func addStrangers(context.Context, string) error { return nil }
