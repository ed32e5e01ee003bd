"""Training: the LightningModule and its losses."""
