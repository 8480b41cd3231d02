"""What a run writes while it trains: log lines, metrics.jsonl, TensorBoard curves, and the ledger of exact values."""
