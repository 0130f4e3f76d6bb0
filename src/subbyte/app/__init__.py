"""The command line, experiments and their runs."""
