"""Weights fitted in closed form: integers and scales of each layer for what it really reads."""
