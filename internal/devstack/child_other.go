//go:build !linux

package devstack

import "syscall"

// Other systems do not support this. There the servers of a killed process keep
// running.
func signalOnParentDeath(*syscall.SysProcAttr, syscall.Signal) {}
