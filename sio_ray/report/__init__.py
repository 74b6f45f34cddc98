"""The report: one self-contained HTML page from the numbers and pictures of a run."""
