"""Drivers: the only code that waits. Each tells the kernel what happened, and is told what to wait for."""
