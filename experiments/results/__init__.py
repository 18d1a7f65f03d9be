"""The records of the studies that were run, and the pages that are written from them.

kept: a study's results in one file, kept, restored and compared
measures: what is kept of the predictions of a study's runs, and their parameters
summaries: a kept study as summaries, and its tables
page: RESULTS.md, the README's table and picture, the expected numbers in YAML headers
__main__: `python -m experiments.results`, in the repository's folder
"""
