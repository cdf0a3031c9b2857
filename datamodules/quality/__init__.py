"""Find duplicates, wrong labels, outliers and broken images."""
