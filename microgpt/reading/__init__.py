"""Texts that are not one document per line: paragraphs, windows of running text, a column of CSV, a field of JSON."""
