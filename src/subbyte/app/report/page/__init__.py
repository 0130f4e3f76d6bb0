"""`report.html`: what a run's folder says, as one page that needs nothing else."""
