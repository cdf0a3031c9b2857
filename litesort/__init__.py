"""Code that all packages share: errors, files, system facts, random numbers. Only `cli` imports other packages."""
