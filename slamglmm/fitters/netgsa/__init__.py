"""NetGSA: tests of pathways that know which gene acts on which."""
