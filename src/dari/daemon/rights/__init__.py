"""As whom a service runs, with what around it, and which places can be trusted for that."""
