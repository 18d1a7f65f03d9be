"""Reads run folders and results, and turns them into tables, statistics and figures."""
