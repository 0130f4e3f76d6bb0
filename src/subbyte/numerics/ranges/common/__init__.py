"""What several range rules use; no file here is a rule."""
