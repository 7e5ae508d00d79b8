"""The relay: DERP and STUN (PROTOCOL §4). It forwards sealed packets and can't open them."""
