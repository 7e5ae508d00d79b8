"""How people log in: by an identity provider or a password, in a browser; and their pages."""
