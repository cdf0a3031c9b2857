"""Splits into train, val and test: by fractions, by folds, by groups, and splits stored in checkpoints."""
