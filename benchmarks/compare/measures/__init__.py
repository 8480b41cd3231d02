"""What a session measures, one module a measure: the cases, and the tasks that give a reading for each."""
