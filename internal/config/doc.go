// Package config reads Lethe's settings. One table has a row for each setting: its
// name, its default, its bounds and its description. [Load] applies the YAML file
// that LETHE_CONFIG names, and then the LETHE_* variables, to that table.
//
// A [Config] that Load returns is valid, and complete for the processes that it
// was loaded for. Load refuses misspelt keys and variables, and it reports all
// mistakes at once. Errors never repeat the value of a setting, because any value
// may hold a password. The package connects to nothing.
//
// docs/configuration.md and docs/config.example.yaml are written from the table:
// run make docs after changing it.
package config
