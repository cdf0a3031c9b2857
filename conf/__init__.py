# Settings are YAML files, one folder a group; the code that reads them is in litesort/cli.
