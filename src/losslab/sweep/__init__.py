"""Study file -> Optuna -> trainings: many settings, several seeds each, every result exactly once."""
