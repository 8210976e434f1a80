"""What produced docs/results.md and docs/benchmark.md; nothing else imports these programs."""
