// Package brake knows how fast jobs may go beside everything else that the database server
// has to do: it looks at the server twice a second, and compares what it sees with
// limits. A soft limit makes batches shorter and the pauses between them longer, and a hard
// one makes jobs wait.
//
// It promises that a changed limit has an effect within 3 s, and that a job which waits
// says which limit it waits for. It must never hold a lock of a room while it waits, and
// never brake because of a figure that it does not know.
package brake
