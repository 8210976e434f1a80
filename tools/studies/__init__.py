"""What produced docs/results and docs/benchmark; nothing else imports these programs."""
