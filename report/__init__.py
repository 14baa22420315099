"""Reads run folders and study folders only: records, statistics, plots, pages; no vendor."""
