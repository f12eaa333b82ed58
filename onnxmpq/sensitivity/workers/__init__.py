"""Who runs jobs: here, in processes, or on a cluster."""
