"""Other programs that a session measures; none of them trains a whole run."""
