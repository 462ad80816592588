// Package lockmodel has a model of the lock of a room, of its fence token and of the
// generation of a job, and looks at every state that the model can reach.
//
// It promises that in the model readers and a writer exclude each other over one or three
// masters, that a stale owner never commits, and that each process can always get in
// again; and that rules left out of the model are missed. It must never be taken for a
// test of the code: it tests the rules that the code follows.
package lockmodel
