"""One block function per stage: what is read, which kernel is called, what is written."""
