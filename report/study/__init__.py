"""What a study measured, what it spent, and what it shows."""
