"""Studies: many runs of one question, what they spent, and what they show."""
