"""Which process runs on which node, and why not."""
