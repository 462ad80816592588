package config

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"lethe/internal/retention"
)

// keys are the keys that the mappings of a list may have.
type keys int

const (
	// ourKeys are the keys of Lethe's own file. Other keys are refused.
	ourKeys keys = iota
	// synapseKeys are the keys of Synapse's file. Other keys and nulls are ignored,
	// as Synapse does.
	synapseKeys
)

var errMappings = errors.New("must be a list of mappings, such as [{interval: 12h, longest_max_lifetime: 3d}]")

// parseMappings parses a list of mappings from YAML or JSON. An empty text is an
// empty list.
func parseMappings(text string) (*yaml.Node, error) {
	if text == "" {
		return &yaml.Node{Kind: yaml.SequenceNode}, nil
	}
	var document yaml.Node
	// The parser's own error may repeat the text.
	if err := yaml.Unmarshal([]byte(text), &document); err != nil || len(document.Content) != 1 {
		return nil, errMappings
	}
	return document.Content[0], nil
}

// purgeJobs is the list of the jobs of retention. An empty list is the one job that
// purges everything.
func purgeJobs(field *[]retention.Job) value {
	is := strings.TrimPrefix(errMappings.Error(), "must be ")
	return value{is: is, mappings: func(list *yaml.Node, from keys, refuse refusal) {
		jobs, ok := readJobs(resolve(list), from, refuse)
		switch {
		case !ok:
		case len(jobs) == 0:
			*field = []retention.Job{retention.Everything()}
		default:
			*field = jobs
		}
	}}
}

// readJobs reads a list of jobs. It reports false if it has refused something.
func readJobs(list *yaml.Node, from keys, refuse refusal) (jobs []retention.Job, ok bool) {
	if list.Kind != yaml.SequenceNode {
		refuse(list.Line, "", errMappings)
		return nil, false
	}
	if len(list.Content) > retention.MaxJobs {
		refuse(list.Line, "", fmt.Errorf("must not have more than %d jobs", retention.MaxJobs))
		return nil, false
	}
	ok = true
	for i, item := range list.Content {
		item = resolve(item)
		place := fmt.Sprintf(": number %d", i+1)
		if item.Kind != yaml.MappingNode {
			ok = false
			refuse(item.Line, place, errNoMapping)
			continue
		}
		job, valid := readJob(item, from, func(line int, key string, err error) { refuse(line, place+key, err) })
		ok = ok && valid
		jobs = append(jobs, job)
	}
	if !ok {
		return nil, false // checks of half a list would only repeat the errors
	}
	for _, wrong := range retention.CheckJobs(jobs) {
		ok = false
		refuse(resolve(list.Content[wrong.Index]).Line, fmt.Sprintf(": number %d", wrong.Index+1), wrong.Err)
	}
	return jobs, ok
}

// readJob reads one job. It reports false if it has refused something.
func readJob(mapping *yaml.Node, from keys, refuse refusal) (job retention.Job, ok bool) {
	var interval *int64
	var cron *retention.Schedule
	set := map[string]func(string) error{
		"interval":              lifetime(&interval).set,
		"shortest_max_lifetime": lifetime(&job.ShortestMaxLifetime).set,
		"longest_max_lifetime":  lifetime(&job.LongestMaxLifetime).set,
	}
	if from == ourKeys {
		set["cron"] = func(text string) error {
			schedule, err := retention.ParseCron(text)
			cron = &schedule
			return err
		}
		set["name"] = func(text string) error {
			job.Name = text
			return retention.CheckJobName(text)
		}
	}
	ok = readMapping(mapping, from, set, refuse)
	switch {
	case !ok:
	case interval != nil && cron != nil:
		ok = false
		refuse(mapping.Line, "", errors.New("has an interval and a cron: only one of them can say when it is due"))
	case cron != nil:
		job.Schedule = *cron
	case interval != nil:
		var err error
		if job.Schedule, err = retention.Every(*interval); err != nil {
			ok = false
			refuse(mapping.Line, ": interval", err)
		}
	}
	if job.Name == "" {
		job.Name = job.DefaultName()
	}
	return job, ok
}

// readMapping calls set for each key of a mapping. It reports false if it has
// refused something.
func readMapping(mapping *yaml.Node, from keys, set map[string]func(string) error, refuse refusal) (ok bool) {
	ok = true
	seen := map[string]bool{}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], resolve(mapping.Content[i+1])
		known := key.Kind == yaml.ScalarNode && set[key.Value] != nil
		if from == synapseKeys && (!known || isNull(value)) {
			continue
		}
		var err error
		switch {
		case !known:
			err = errors.New("no such setting")
		case seen[key.Value]:
			err = errors.New("is there twice")
		case value.Kind != yaml.ScalarNode:
			err = errNoScalar
		case isNull(value) || value.Value == "":
			err = errors.New("has no value: leave the key out")
		default:
			err = set[key.Value](value.Value)
		}
		seen[key.Value] = true
		if err == nil {
			continue
		}
		ok = false
		place := ""
		if key.Kind == yaml.ScalarNode && keyName.MatchString(key.Value) {
			place = ": " + key.Value
		}
		refuse(key.Line, place, err)
	}
	return ok
}
