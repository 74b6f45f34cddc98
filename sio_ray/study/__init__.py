"""A study: one table of methods, ablations around it, and the page that is written from what they left."""
