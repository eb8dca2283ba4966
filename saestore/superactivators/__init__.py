"""All that knows one research pipeline: its file names, data sets, ground truth and unit mappings."""
