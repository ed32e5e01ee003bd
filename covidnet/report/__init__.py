"""Tables and arrays in, terminal tables, figures and files out."""
