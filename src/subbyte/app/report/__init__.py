"""Tables, progress bars and pictures of a run."""
