"""Direct paths through NATs that give every destination another port (PROTOCOL §15).

The hard side, whose ports vary, opens many sockets towards the easy side's one address; the easy
side guesses which ports its NAT gave them. `ports` learns how a NAT gives out ports, `hard` and
`easy` are the two sides of one attempt, `puncher` begins and ends attempts for one peer.
"""
