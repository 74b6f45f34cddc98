"""Stages as jobs of a Ray cluster: what travels there, its id, its log, its exit code."""
