package config

import (
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"lethe/internal/retention"
)

// Keys say whose file a list of mappings is in.
type keys int

const (
	// ourKeys are all that we know, and others are refused.
	ourKeys keys = iota
	// synapseKeys are Synapse's, which ignores others and nulls.
	synapseKeys
)

var errMappings = errors.New("must be a list of mappings, such as [{interval: 12h, longest_max_lifetime: 3d}]")

// parseMappings reads a list of mappings from a text of YAML, of which JSON is a
// part. An empty text is an empty list.
func parseMappings(text string) (*yaml.Node, error) {
	if text == "" {
		return &yaml.Node{Kind: yaml.SequenceNode}, nil
	}
	var document yaml.Node
	// The parser's own words may repeat the text.
	if err := yaml.Unmarshal([]byte(text), &document); err != nil || len(document.Content) != 1 {
		return nil, errMappings
	}
	return document.Content[0], nil
}

// purgeJobs sets the jobs of retention, or, if there are none, the one that purges
// everything.
func purgeJobs(field *[]retention.Job) func(*yaml.Node, keys, refusal) {
	return func(list *yaml.Node, from keys, refuse refusal) {
		list = resolve(list)
		if list.Kind != yaml.SequenceNode {
			refuse(list.Line, "", errMappings)
			return
		}
		if len(list.Content) > retention.MaxJobs {
			refuse(list.Line, "", fmt.Errorf("must not have more than %d jobs", retention.MaxJobs))
			return
		}
		failed := false
		var jobs []retention.Job
		for i, item := range list.Content {
			item = resolve(item)
			place := fmt.Sprintf(": number %d", i+1)
			if item.Kind != yaml.MappingNode {
				failed = true
				refuse(item.Line, place, errNoMapping)
				continue
			}
			job, ok := purgeJob(item, from, func(line int, key string, err error) { refuse(line, place+key, err) })
			failed = failed || !ok
			jobs = append(jobs, job)
		}
		if failed {
			return // of what is half read, the rest would be said in vain
		}
		for _, wrong := range retention.CheckJobs(jobs) {
			failed = true
			refuse(resolve(list.Content[wrong.Index]).Line, fmt.Sprintf(": number %d", wrong.Index+1), wrong.Err)
		}
		if failed {
			return
		}
		if len(jobs) == 0 {
			jobs = []retention.Job{retention.Everything()}
		}
		*field = jobs
	}
}

// purgeJob reads one job. It is false if it has refused something.
func purgeJob(mapping *yaml.Node, from keys, refuse refusal) (job retention.Job, ok bool) {
	var interval *int64
	var cron *retention.Schedule
	set := map[string]func(string) error{
		"interval":              lifetime(&interval),
		"shortest_max_lifetime": lifetime(&job.ShortestMaxLifetime),
		"longest_max_lifetime":  lifetime(&job.LongestMaxLifetime),
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
	ok = true
	wrong := func(node *yaml.Node, key string, err error) {
		ok = false
		refuse(node.Line, key, err)
	}
	var seen []string
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], resolve(mapping.Content[i+1])
		known := key.Kind == yaml.ScalarNode && set[key.Value] != nil
		if from == synapseKeys && (!known || isNull(value)) {
			continue
		}
		place := ""
		if key.Kind == yaml.ScalarNode && keyName.MatchString(key.Value) {
			place = ": " + key.Value
		}
		switch {
		case !known:
			wrong(key, place, errors.New("no such setting"))
		case slices.Contains(seen, key.Value):
			wrong(key, place, errors.New("is there twice"))
		case value.Kind != yaml.ScalarNode:
			wrong(key, place, errNoScalar)
		case isNull(value) || value.Value == "":
			wrong(key, place, errors.New("has no value: leave the key out"))
		default:
			if err := set[key.Value](value.Value); err != nil {
				wrong(key, place, err)
			}
		}
		seen = append(seen, key.Value)
	}
	switch {
	case !ok:
	case interval != nil && cron != nil:
		wrong(mapping, "", errors.New("has an interval and a cron: only one of them can say when it is due"))
	case cron != nil:
		job.Schedule = *cron
	case interval != nil:
		var err error
		if job.Schedule, err = retention.Every(*interval); err != nil {
			wrong(mapping, ": interval", err)
		}
	}
	if job.Name == "" {
		job.Name = job.DefaultName()
	}
	return job, ok
}
