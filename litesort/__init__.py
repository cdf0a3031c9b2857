"""Code that all packages share: errors, files, system facts, random numbers. It imports no other package."""
