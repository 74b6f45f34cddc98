"""The classifier: networks, the SIO objective, mixed batches, and one training step."""
