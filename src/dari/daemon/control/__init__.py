"""How a running service is asked: its sockets, who may, and what it knows of itself."""
