"""The policy language: from a HuJSON file to what every node is told (PROTOCOL §12).

`hujson` reads text with places, `document` makes a typed policy of it, `targets` says who is
meant, `postures` what a machine must be like, `meeting` which nodes a rule meets, `compile` makes
packet filters, `ssh` the SSH policies, `nodeattrs` capabilities, `visibility` what nodes see of
each other, `trials` runs the tests that a policy brings along, and `verdict` puts them together.
"""
