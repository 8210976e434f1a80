"""What produced docs/results/ and docs/benchmark.md; nothing else imports these programs."""
