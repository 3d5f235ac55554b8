"""How Consilium is started: pools, deployments, the one-machine federation, sites."""
