"""The loops that a main can be run in, one module each: what `runner.Host` asks, done by that loop's own means."""
