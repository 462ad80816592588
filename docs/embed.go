package docs

import _ "embed"

// OpenAPI describes the API below /_lethe/v1, in OpenAPI 3.1.
//
//go:embed openapi.json
var OpenAPI []byte
