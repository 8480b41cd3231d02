"""What starts ranks and looks after runs; imports no torch, so that it answers at once."""
