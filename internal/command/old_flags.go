package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// OldFlags are the flags that earlier versions took with a single dash, such as -listen,
// by the path of the command below its root. The path of a root itself is "".
type OldFlags map[string][]string

// rewrite returns the arguments with two dashes before the old flags, and a warning for
// each of them. It leaves values of flags alone, and everything after "--".
func (old OldFlags) rewrite(root *cobra.Command, args []string) (rewritten, warnings []string) {
	command, path := root, ""
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return append(rewritten, args[i:]...), warnings
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			if below := child(command, arg); below != nil {
				command, path = below, strings.TrimSpace(path+" "+arg)
			}
			rewritten = append(rewritten, arg)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "--") && slices.Contains(old[path], name) {
			warnings = append(warnings, fmt.Sprintf("-%s is an old form, which a later version refuses: write --%s", name, name))
			arg = "-" + arg
		}
		rewritten = append(rewritten, arg)
		if flag := lookup(command, arg); flag != nil && flag.NoOptDefVal == "" && !hasValue && i+1 < len(args) {
			i++
			rewritten = append(rewritten, args[i])
		}
	}
	return rewritten, warnings
}

// child returns the command below another one that has the name, nil if it has no such command.
func child(command *cobra.Command, name string) *cobra.Command {
	for _, below := range command.Commands() {
		if below.Name() == name || below.HasAlias(name) {
			return below
		}
	}
	return nil
}

// lookup returns the flag that an argument names: --name, --name=value or -n. It returns
// nil if the command has no such flag.
func lookup(command *cobra.Command, arg string) *pflag.Flag {
	name, isLong := strings.CutPrefix(arg, "--")
	name, _, _ = strings.Cut(name, "=")
	find := func(flags *pflag.FlagSet) *pflag.Flag {
		if isLong {
			return flags.Lookup(name)
		}
		if short := strings.TrimPrefix(name, "-"); len(short) == 1 {
			return flags.ShorthandLookup(short)
		}
		return nil
	}
	if flag := find(command.Flags()); flag != nil {
		return flag
	}
	for ; command != nil; command = command.Parent() {
		if flag := find(command.PersistentFlags()); flag != nil {
			return flag
		}
	}
	return nil
}
