// Package mastest answers in tests as Matrix Authentication Service does, by its
// documentation and RFC 7662.
//
// It promises to refuse what the service refuses: a request without the secret, or with a
// body that is no form. Only tests may import it.
package mastest
