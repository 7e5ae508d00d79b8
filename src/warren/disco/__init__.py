"""Disco: the sealed messages that find and keep direct paths (PROTOCOL §5.1).

`sealed` is the packet, `messages` what is inside. Times and retries belong to `warren.paths`.
"""
