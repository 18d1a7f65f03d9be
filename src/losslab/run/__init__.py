"""One configured training: parse, build, fit, test, predict, and the folder that records it."""
