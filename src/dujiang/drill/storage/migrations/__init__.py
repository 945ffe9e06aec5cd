"""The tables of the drill's own workload."""
