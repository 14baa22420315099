"""Ray: placement, actors, the buffer, the learner group, the run's map, results, commands."""
