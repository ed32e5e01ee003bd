"""The feature store of the frozen backbone: what was computed once is never computed again."""
