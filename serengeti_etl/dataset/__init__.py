"""What is on storage: the index, the ledger, and the proof that they agree with the shards."""
