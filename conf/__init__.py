# Settings are YAML files, one folder per group; the code that reads them is in litesort/cli.
