"""Command-line parsing and error reporting."""
