"""`legato slurm`: a cluster of Legato as jobs of Slurm (docs/slurm.md). Needs nothing beyond Python and Slurm's own
commands."""
