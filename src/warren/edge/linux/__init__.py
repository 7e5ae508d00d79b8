"""What only Linux has: routes, addresses, who is at the other end of a socket."""
