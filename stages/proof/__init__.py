"""What shows that a run can be trusted: the lock, the machine, and how two outputs differ."""
