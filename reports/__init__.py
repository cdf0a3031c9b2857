"""Reports: tables, figures and HTML pages from plain data. This package does not import torch."""
