"""The HTTP API v2 under `/api/v2`, in the forms that existing tools speak (PROTOCOL §13).

`operation` says what an operation is; `devices`, `keys`, `people`, `policy_file` and `network` are
tables of them; `application` serves the tables, and `openapi` describes them.
"""
