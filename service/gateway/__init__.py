"""The gateway: HTTP in, jobs out, and answers to whoever asks about them.

Floors, each importing only those below: `app` puts it together, `routes` the addresses, `work` what may be done,
`shapes` what is said in either direction, `http` the connection. No picture is decoded in this process.
"""
