"""The order of events of a training or inference order, nothing else."""
