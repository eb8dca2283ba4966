"""One segment: written once, read by slices, merged with its neighbours."""
