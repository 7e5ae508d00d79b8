"""Every line that touches the operating system: clock, entropy, files, TLS, HTTP, Linux."""
