package validate

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// conforming parses an object and validates it with the schema of its kind.
func conforming(t *testing.T, text []byte, kind string) map[string]any {
	t.Helper()
	object, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	require.NoError(t, schema(t, kind).Validate(object))
	return object.(map[string]any)
}

// schema returns the schema of a kind.
func schema(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("schemas", strings.ToLower(kind)+".json"))
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("schema.json", document))
	schema, err := compiler.Compile("schema.json")
	require.NoError(t, err)
	return schema
}

func TestSchemasRefuseUnknownFields(t *testing.T) {
	t.Parallel()
	for kind, object := range map[string]string{
		"ScaledObject": `{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {}, "spec": {
			"scaleTargetRef": {"name": "x"}, "triggers": [{"type": "cron", "metadata": {}}], "maxReplicas": 3}}`,
		"ServiceMonitor": `{"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {}, "spec": {
			"selector": {}, "endpoints": [], "maxReplicas": 3}}`,
	} {
		misspelt, err := jsonschema.UnmarshalJSON(strings.NewReader(object))
		require.NoError(t, err)
		require.ErrorContains(t, schema(t, kind).Validate(misspelt), "maxReplicas", kind)
		right, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.Replace(object, `, "maxReplicas": 3`, "", 1)))
		require.NoError(t, err)
		require.NoError(t, schema(t, kind).Validate(right), kind)
	}
}
