"""What a run does for each task, behind one protocol; and measuring, which is the same for all."""
