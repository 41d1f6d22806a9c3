"""What the command `dari` does, one module for each group of commands; the arguments are `cli`'s."""
