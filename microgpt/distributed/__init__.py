"""One run on several processes of an MPI job, with the bits of one process: see docs/howto/many-machines.md."""
