"""The command `dist-train`: start trainings, and watch and stop runs. It never imports torch, so it answers at once."""
