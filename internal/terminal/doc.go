// Package terminal knows what may be printed on a terminal.
//
// It promises that a text that others wrote cannot move the cursor, change colours or
// reverse the direction of what follows. It must never change a text that has only
// characters that can be seen.
package terminal
