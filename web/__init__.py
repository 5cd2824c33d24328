"""What stands between a socket and a route: connections, clients, keys, the page and the docs."""
