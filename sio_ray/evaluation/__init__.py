"""Evaluation on a Ray cluster: networks run over image sets, and detectors over what they said."""
