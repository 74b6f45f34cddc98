"""SIO on Ray: classifiers trained on real and synthetic in-distribution images detect OOD inputs better."""

__version__ = "0.1.0"
