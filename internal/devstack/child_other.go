//go:build !linux

package devstack

import "syscall"

// Other systems have nothing like it: there a killed process leaves its
// servers behind.
func signalOnParentDeath(*syscall.SysProcAttr, syscall.Signal) {}
