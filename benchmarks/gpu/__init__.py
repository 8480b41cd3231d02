"""`make gpu-check`: whether everything runs on this machine's GPU, and how fast."""
