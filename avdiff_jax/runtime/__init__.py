"""The machine: devices, hosts, checkpoints, lock, stop signal, progress."""
