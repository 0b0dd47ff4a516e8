"""What `changeroom top` shows: readings of store and gateways, what changed between them, and the frame."""
