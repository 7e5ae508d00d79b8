"""The lab: internets, NAT routers and hosts in Linux network namespaces.

`plan` describes a network, `layout` turns it into commands, `sandbox` gives an ordinary user the
right to run them, `world` builds, runs programs inside and cleans up. `demo` is the main job of
the project, shown in such a network.
"""
