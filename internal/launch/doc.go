// Package launch is the command line of the processes: api, worker, scheduler and
// asynqmon. It reads the settings from the environment, and runs or checks the process.
//
// It promises that each process refuses a word that it does not know before it reads a
// setting. It must never decide what a process does: package process does.
package launch
