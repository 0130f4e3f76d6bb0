"""Deployment: what the file holds, the runtimes that run it, and whether they do as simulated."""
