package operator

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/docs"
)

var update = flag.Bool("update", false, "write docs/openapi.json")

// docs/openapi.json is made from the routes, the types of their bodies, and the comments
// of these types.
func TestDescription(t *testing.T) {
	t.Parallel()
	d := describer{t: t, comments: map[string]string{}, schemas: map[string]any{}}
	text, err := json.MarshalIndent(d.document(New(nil, nil, nil, nil, Options{}).Routes()), "", "  ")
	require.NoError(t, err)
	text = append(text, '\n')
	if *update {
		require.NoError(t, os.WriteFile("../../docs/openapi.json", text, 0o644))
		return
	}
	require.Equal(t, string(text), string(docs.OpenAPI), "make docs writes it")
}

type object = map[string]any

// A describer makes the description of the API.
type describer struct {
	t        *testing.T
	comments map[string]string // of "type" and "type.field", with the package's path in front
	parsed   map[string]bool
	schemas  object
}

func (d *describer) document(routes []Route) object {
	paths := object{}
	for _, route := range routes {
		path := Root + route.Path
		methods, ok := paths[path].(object)
		if !ok {
			methods = object{}
			paths[path] = methods
		}
		methods[strings.ToLower(route.Method)] = d.operation(route)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Lethe", "version": "1",
			"description": "The API of Lethe's operators. A request needs the access token of a server admin. Times are in Unix milliseconds.",
		},
		"security": []any{object{"token": []string{}}},
		"paths":    paths,
		"components": object{
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
			"schemas":         d.schemas,
		},
	}
}

var segments = regexp.MustCompile(`\{(\w+)\}`)

func (d *describer) operation(route Route) object {
	parameters := []any{}
	for _, match := range segments.FindAllStringSubmatch(route.Path, -1) {
		parameters = append(parameters, object{"name": match[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, p := range route.Query {
		schema := object{"type": p.Type}
		if p.Many {
			schema = object{"type": "array", "items": schema}
		}
		parameters = append(parameters, object{"name": p.Name, "in": "query", "description": p.Doc, "schema": schema})
	}
	answer := object{"description": "The answer", "content": object{"text/event-stream": object{"schema": object{"type": "string"}}}}
	if route.Answer != nil {
		answer = object{"description": "The answer", "content": object{"application/json": object{"schema": d.schema(reflect.TypeOf(route.Answer))}}}
	} else {
		// The data of the two kinds of events.
		d.schema(reflect.TypeFor[JobEvent]())
	}
	operation := object{
		"summary": route.Summary, "parameters": parameters,
		"responses": object{
			strconv.Itoa(route.Status): answer,
			"default": object{"description": "A refusal", "content": object{"application/json": object{"schema": object{
				"type": "object", "required": []string{"errcode", "error"}, "properties": object{
					"errcode": object{"type": "string"}, "error": object{"type": "string"},
					"retry_after_ms": object{"type": "integer"}, "soft_logout": object{"type": "boolean"},
				},
			}}}},
		},
	}
	if route.Body != nil {
		operation["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(reflect.TypeOf(route.Body))}}}
	}
	return operation
}

// schema returns the schema of a type. Structs are described by name.
func (d *describer) schema(t reflect.Type) any {
	switch t.Kind() {
	case reflect.Pointer:
		inner := d.schema(t.Elem())
		if simple, ok := inner.(object); ok && simple["type"] != nil {
			if kind, ok := simple["type"].(string); ok {
				simple["type"] = []string{kind, "null"}
				return simple
			}
		}
		return object{"oneOf": []any{inner, object{"type": "null"}}}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64, reflect.Int32:
		return object{"type": "integer"}
	case reflect.Slice:
		if t == reflect.TypeFor[json.RawMessage]() {
			return object{"type": "object"}
		}
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		reference := object{"$ref": "#/components/schemas/" + t.Name()}
		if _, ok := d.schemas[t.Name()]; !ok {
			d.schemas[t.Name()] = nil // for types that contain themselves
			d.schemas[t.Name()] = d.structure(t)
		}
		return reference
	}
	d.t.Fatalf("a type that the description cannot have: %s", t)
	return nil
}

func (d *describer) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous || name == "" || name == "-" {
			continue
		}
		schema := d.schema(field.Type)
		owner := t
		if len(field.Index) > 1 {
			owner = t.FieldByIndex(field.Index[:len(field.Index)-1]).Type
		}
		if comment := d.comment(owner, field.Name); comment != "" {
			if described, ok := schema.(object); ok {
				described["description"] = comment
			}
		}
		properties[name] = schema
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			required = append(required, name)
		}
	}
	structure := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		structure["required"] = required
	}
	if comment := d.comment(t, ""); comment != "" {
		structure["description"] = comment
	}
	return structure
}

// comment returns the comment of a type, or of a field of it.
func (d *describer) comment(t reflect.Type, field string) string {
	folder := filepath.Join("../..", strings.TrimPrefix(t.PkgPath(), "lethe/"))
	if !d.parsed[folder] {
		d.parse(folder, t.PkgPath())
	}
	name := t.PkgPath() + "." + t.Name()
	if field != "" {
		name += "." + field
	}
	return d.comments[name]
}

func (d *describer) parse(folder, pkg string) {
	if d.parsed == nil {
		d.parsed = map[string]bool{}
	}
	d.parsed[folder] = true
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(d.t, err)
	set := token.NewFileSet()
	for _, name := range files {
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		require.NoError(d.t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			declaration, ok := node.(*ast.GenDecl)
			if !ok || declaration.Tok != token.TYPE {
				return true
			}
			for _, spec := range declaration.Specs {
				d.parseType(pkg, spec.(*ast.TypeSpec), declaration.Doc)
			}
			return true
		})
	}
}

func (d *describer) parseType(pkg string, spec *ast.TypeSpec, doc *ast.CommentGroup) {
	name := pkg + "." + spec.Name.Name
	d.comments[name] = oneLine(doc)
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range structure.Fields.List {
		for _, ident := range field.Names {
			d.comments[name+"."+ident.Name] = oneLine(field.Doc)
		}
	}
}

// oneLine returns a comment without line breaks and without the brackets of links.
func oneLine(comment *ast.CommentGroup) string {
	if comment == nil {
		return ""
	}
	words := strings.Join(strings.Fields(comment.Text()), " ")
	return regexp.MustCompile(`\[([\w.]+)\]`).ReplaceAllString(words, "$1")
}

// Every path in the description is served, and the other way round.
func TestDescriptionIsServed(t *testing.T) {
	t.Parallel()
	var served struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	require.NoError(t, json.NewDecoder(bytes.NewReader(docs.OpenAPI)).Decode(&served))
	for _, route := range New(nil, nil, nil, nil, Options{}).Routes() {
		require.Contains(t, served.Paths[Root+route.Path], strings.ToLower(route.Method))
	}
}
