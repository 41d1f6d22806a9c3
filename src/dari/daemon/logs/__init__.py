"""The service's log: what is written, by whom, where to, and for how long."""
