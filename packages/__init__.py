"""What this project installs: its lock files, audited and listed. Nothing here runs in a stage."""
