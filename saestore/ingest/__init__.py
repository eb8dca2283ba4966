"""Build and import: from what a user names to rows, and from rows to a set."""
