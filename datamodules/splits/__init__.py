"""Train, val and test: fractions, folds, groups and splits that are kept."""
