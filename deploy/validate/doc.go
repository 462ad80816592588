// Package validate tests the files in deploy and docker-compose.yml. It does not run
// them, but reads them with the libraries of the programs that will. Only the Ansible role is
// run, with a program in place of Docker. It is a separate module, so that these libraries
// stay out of Lethe's go.mod.
//
// It promises that these files have no unknown fields and no invalid settings, that
// everything they refer to exists, and that no container has unnecessary rights. It must
// never need a container engine, a cluster or a network.
package validate
