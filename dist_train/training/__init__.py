"""The parts of a training that the loop in `dist_train.train` puts together."""
