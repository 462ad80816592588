// Package docs is the documentation that programs serve themselves.
//
// It promises that what is served is what the repository has. It must never change with
// the settings.
package docs

import _ "embed"

// OpenAPI describes the API below /_lethe/v1, in OpenAPI 3.1.
//
//go:embed openapi.json
var OpenAPI []byte
