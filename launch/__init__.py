"""The command `dist-train`: start trainings, and watch and stop runs. It never imports torch, so it answers at once."""

import dist_train  # noqa: F401 (of the same checkout; it takes the working directory off the path)
