"""The search: what to try next and what came of it, as pure functions of earlier results; nothing here knows Ray."""
