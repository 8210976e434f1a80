"""What `make endurance` tries: each module has one `run(count, seed, folder)` per item."""
