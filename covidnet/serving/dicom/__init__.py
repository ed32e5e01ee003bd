"""Results as DICOM, and the way in and out over the network of an archive (PACS)."""
