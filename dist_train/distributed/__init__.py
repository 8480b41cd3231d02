"""What ranks do together: the process group and its collectives, the gradient reduction, and sums in shared memory."""
