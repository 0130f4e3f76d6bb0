"""Trainers for the models that come with the package."""
