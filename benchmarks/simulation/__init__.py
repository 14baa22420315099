"""Engines and a learner that only take time: for the ledger, the buffer and the object store."""
