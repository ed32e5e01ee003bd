"""Turn folders and tables into a manifest and a prepared data set."""
