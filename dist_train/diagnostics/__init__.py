"""Find the rank that failed first: heartbeats, failure records, stack traces, a watchdog, and the verdict; no torch."""
