"""Plain data in, tables, pictures and pages out. Imports no torch."""
