"""Quality of a synthetic image set: labels, fidelity, variety and memorisation, against a real set."""
