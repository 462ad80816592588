package main

import (
	"encoding/json"
	"fmt"
	"os"

	"lethe/test/routing"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "print:", err)
		os.Exit(1)
	}
}

func run() error {
	api, err := os.ReadFile("docs/api.md")
	if err != nil {
		return err
	}
	routes, err := os.ReadFile("docs/routes.md")
	if err != nil {
		return err
	}
	table, err := routing.Documented(string(api), string(routes))
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	for _, request := range table.Requests() {
		if err := encoder.Encode(request); err != nil {
			return err
		}
	}
	return nil
}
