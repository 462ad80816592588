// Package holdfile knows the file in which the holds of rooms are exported.
//
// It promises that a file is there as a whole or not at all, that only its owner may read
// it, because reasons are confidential, and that a file which was cut off or edited is
// found. It must never be taken for a proof of who has written it.
package holdfile
