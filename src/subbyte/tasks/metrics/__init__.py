"""The metrics of tasks."""
