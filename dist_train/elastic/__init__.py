"""The agent that `dist-train train` starts: it forks the ranks of this machine and restarts them when one is lost."""
