"""Which sample is at which position of an epoch: functions of the seed, the epoch and the position."""
