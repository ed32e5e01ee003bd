"""What every room may use: errors, names, classes, whole files, progress, provenance, trust."""
