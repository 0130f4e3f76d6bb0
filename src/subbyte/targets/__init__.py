"""Where a file runs: one file a target."""
