"""What is learned: the loss that is trained, and what an evaluation counts."""
