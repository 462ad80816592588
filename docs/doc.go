// Package docs is the documentation that programs serve themselves.
//
// It promises that what is served is what the repository has. It must never change with
// the settings.
package docs
