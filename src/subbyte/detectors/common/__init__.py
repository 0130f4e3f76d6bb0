"""What several families of detectors share; no file in this folder is a family."""
