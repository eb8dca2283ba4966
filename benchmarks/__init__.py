"""saestore beside what a user would pick instead, in the same run on the same work; see docs/performance.md."""
