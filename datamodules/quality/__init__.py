"""Find duplicates, wrong labels, outliers and broken images in a data set."""
